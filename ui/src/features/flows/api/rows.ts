import type { Flow } from "../../../api/wire";

/** The most rows kept of those that arrived while the page was open. */
export const liveLimit = 5000;

/** Records in order, each once: what is in both lists stays where the first has it. */
export function mergeFlows(first: Flow[], second: Flow[]): Flow[] {
  const known = new Set(first.map((f) => f.id));
  return [...first, ...second.filter((f) => !known.has(f.id))];
}

/** What arrived, newest first, before what had arrived. */
export function withArrived(rows: Flow[], arrived: Flow[]): Flow[] {
  return mergeFlows(arrived.toReversed(), rows).slice(0, liveLimit);
}
