import type { Denial, Party, Slot, WorkloadRef } from "../../../api/wire";
import { refKey } from "../../../api/wire";

/** What the page asks for, kept in the address so that it can be shared. */
export interface FlowSearch {
  q?: string;
}

export const defaultFilter = "since=1h";

export function readFlowSearch(raw: Record<string, unknown>): FlowSearch {
  return typeof raw.q === "string" || typeof raw.q === "number" ? { q: String(raw.q) } : {};
}

/** A value as the filter's language has it. */
export const quoted = (value: string): string =>
  value !== "" && !/[\s,"]/.test(value) ? value : `"${value.replaceAll(/["\\]/g, "\\$&")}"`;

const sincePattern = /(?:^|\s)since=(?:"[^"]*"|\S*)/;

/** The text of since=, or "" without one. */
export function sinceOf(filter: string): string {
  return sincePattern.exec(filter)?.[0].trim().slice("since=".length) ?? "";
}

/** The filter with another since=, or without one. */
export function withSince(filter: string, since: string): string {
  const rest = filter.replace(sincePattern, "").trim();
  return [rest, since && `since=${since}`].filter(Boolean).join(" ");
}

/** The conditions of a filter's text, as far as they can be told apart here. */
const words = (filter: string): string[] => filter.match(/(?:"(?:\\.|[^"\\])*"|[^\s"])+/g) ?? [];

export const hasTerm = (filter: string, term: string): boolean => words(filter).includes(term);

/** The filter with the condition, or without it when it was there. */
export function toggleTerm(filter: string, term: string): string {
  const have = words(filter);
  return (have.includes(term) ? have.filter((w) => w !== term) : [term, ...have]).join(" ");
}

export const workloadFilter = (w: WorkloadRef): string =>
  `workload=${quoted(refKey(w))} ${defaultFilter}`;

/** The records behind what a slot's revision denied at a workload; of one denial when it is given. */
export function denialFilter(
  observer: WorkloadRef,
  slot: Slot,
  revision: number | undefined,
  since: string | undefined,
  denial?: Denial,
): string {
  const terms = [`observer=${quoted(refKey(observer))}`, `${slot}.verdict=deny`];
  if (revision) {
    terms.push(`${slot}.revision=${revision}`);
  }
  if (denial) {
    terms.push(
      `direction=${denial.direction}`,
      ...partyTerms("from", denial.source),
      ...partyTerms("to", denial.destination),
      `protocol=${denial.protocol}`,
      `to.port=${denial.port}`,
      `${slot}.reason=${denial.reason}`,
    );
  }
  if (since) {
    terms.push(`since=${since}`);
  }
  return terms.join(" ");
}

function partyTerms(side: "from" | "to", p: Party): string[] {
  if (p.workload?.name) {
    return [`${side}.workload=${quoted(refKey(p.workload))}`];
  }
  if (p.address) {
    return [`${side}.address=${p.address}`];
  }
  return p.reserved ? [`${side}.reserved=${quoted(p.reserved)}`] : [];
}
