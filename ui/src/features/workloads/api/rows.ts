import { refKey, type Stage, type WorkloadSummary } from "../../../api/wire";
import { parseTime } from "../../../app/format";
import type { WorkloadSearch } from "./search";

export interface WorkloadRow {
  key: string;
  summary: WorkloadSummary;
  /** The further of its two directions. */
  stage: Stage;
  observedSince: number | undefined;
  lastSeen: number | undefined;
}

const order: Stage[] = ["observe", "audit", "enforce"];

export const furtherStage = (a: Stage, b: Stage): Stage =>
  order.indexOf(a) >= order.indexOf(b) ? a : b;

export const rowOf = (summary: WorkloadSummary): WorkloadRow => ({
  key: refKey(summary.workload),
  summary,
  stage: furtherStage(summary.ingressStage, summary.egressStage),
  observedSince: parseTime(summary.observedSince)?.getTime(),
  lastSeen: parseTime(summary.lastSeen)?.getTime(),
});

export const namespacesOf = (rows: WorkloadRow[]): string[] =>
  [...new Set(rows.map((r) => r.summary.workload.namespace))].sort();

export const countByStage = (rows: WorkloadRow[]): Record<Stage, number> => ({
  observe: rows.filter((r) => r.stage === "observe").length,
  audit: rows.filter((r) => r.stage === "audit").length,
  enforce: rows.filter((r) => r.stage === "enforce").length,
});

/** Every word must occur in the name, the namespace, the kind or a label. */
function matches(row: WorkloadRow, q: string): boolean {
  const labels = Object.entries(row.summary.labels).map(([k, v]) => `${k}=${v}`);
  const hay = [row.key, ...labels].join(" ").toLowerCase();
  return q
    .toLowerCase()
    .split(/\s+/)
    .every((word) => hay.includes(word));
}

export const filterRows = (rows: WorkloadRow[], s: WorkloadSearch): WorkloadRow[] =>
  rows.filter(
    (r) =>
      (!s.ns || r.summary.workload.namespace === s.ns) &&
      (!s.stage || r.stage === s.stage) &&
      (!s.q || matches(r, s.q)),
  );

const sortValues: Record<string, (r: WorkloadRow) => number | string> = {
  name: (r) => `${r.summary.workload.name} ${r.key}`,
  stage: (r) => order.indexOf(r.stage),
  edges: (r) => r.summary.edges,
  connections: (r) => r.summary.connections,
  wouldDeny: (r) => r.summary.wouldDeny,
  denied: (r) => r.summary.denied,
  observed: (r) => r.observedSince ?? Number.POSITIVE_INFINITY,
  lastSeen: (r) => r.lastSeen ?? 0,
};

export function sortRows(rows: WorkloadRow[], column: string, descending: boolean): WorkloadRow[] {
  const value = sortValues[column] ?? sortValues.name;
  if (!value) {
    return rows;
  }
  const sign = descending ? -1 : 1;
  return rows.toSorted((a, b) => {
    const [x, y] = [value(a), value(b)];
    return sign * (x < y ? -1 : x > y ? 1 : 0) || (a.key < b.key ? -1 : 1);
  });
}

/** How far an endpoint set is through its warm-up, 0 to 1. */
export function warmUpShare(
  observedSince: number | undefined,
  warmUpSeconds: number | undefined,
  now: number,
): number | undefined {
  if (observedSince === undefined) {
    return undefined;
  }
  const seconds = Math.max(0, now - observedSince) / 1000;
  return warmUpSeconds ? Math.min(1, seconds / warmUpSeconds) : 1;
}
