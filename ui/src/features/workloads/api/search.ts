import type { Stage } from "../../../api/wire";

/** What the list shows, kept in the address so that it can be shared. */
export interface WorkloadSearch {
  q?: string;
  ns?: string;
  stage?: Stage;
  sort?: string;
  desc?: boolean;
}

const stages: readonly unknown[] = ["observe", "audit", "enforce"] satisfies Stage[];
const text = (v: unknown): string | undefined =>
  (typeof v === "string" || typeof v === "number") && v !== "" ? String(v) : undefined;

export function readWorkloadSearch(raw: Record<string, unknown>): WorkloadSearch {
  const search: WorkloadSearch = {
    q: text(raw.q),
    ns: text(raw.ns),
    stage: stages.includes(raw.stage) ? (raw.stage as Stage) : undefined,
    sort: text(raw.sort),
    desc: raw.desc === true || undefined,
  };
  return Object.fromEntries(Object.entries(search).filter(([, v]) => v !== undefined));
}
