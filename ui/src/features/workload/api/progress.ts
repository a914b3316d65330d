import type { SlotAction } from "../../../api/mutations";
import type { NodeSlots, Slot, SlotResult, Workload } from "../../../api/wire";
import { millisBetween, parseTime } from "../../../app/format";

/** A change on its way: requested → in every kernel → confirmed by every node. */
export interface Progress {
  revision: number | undefined;
  effective: boolean;
  /** From the request to the last kernel's switch, by the server's and nodes' clocks. */
  switchMillis: number | undefined;
  /** Undefined where nothing needs confirming: a staged revision drops nothing. */
  confirmed: boolean | undefined;
  waiting: string[];
  unconfirmed: string[];
  disconnected: string[];
  reverted: string[];
  /** Why not every node had applied it when the server answered. */
  detail: string | undefined;
}

/** The slot that an action changes. */
export const slotOf = (action: SlotAction): Slot =>
  action === "audit" || action === "unstage" ? "staged" : "live";

const none = (n: number | undefined): number => n ?? 0;

/** Where the change stands, by the newest state known: `now` once it was fetched, else the answer itself. */
export function progressOf(action: SlotAction, result: SlotResult, now?: Workload): Progress {
  const slot = slotOf(action);
  const wanted = none(result.summary.requested[slot]);
  const newer = now !== undefined && now.summary.version >= result.summary.version;
  const nodes = newer ? now.nodes : result.nodes;
  const connected = nodes.filter((n) => n.connected);
  const reverted = connected.filter((n) => wanted !== 0 && n.revertedFrom === wanted);
  const waiting = connected.filter(
    (n) => none(n.effective[slot]) !== wanted && !reverted.includes(n),
  );
  const effective = waiting.length === 0 && reverted.length === 0;
  const unconfirmed = connected.filter((n) => !n.confirmed);
  return {
    revision: wanted || undefined,
    effective,
    switchMillis: effective ? switchMillis(result, slot === "live" ? connected : []) : undefined,
    confirmed: slot === "live" ? effective && unconfirmed.length === 0 : undefined,
    waiting: waiting.map((n) => n.node),
    unconfirmed: slot === "live" ? unconfirmed.map((n) => n.node) : [],
    disconnected: nodes.filter((n) => !n.connected).map((n) => n.node),
    reverted: reverted.map((n) => n.node),
    detail: effective ? undefined : result.detail,
  };
}

function switchMillis(result: SlotResult, nodes: NodeSlots[]): number | undefined {
  const said = millisBetween(result.requestedAt, result.switchedAt);
  if (said !== undefined) {
    return Math.max(0, said);
  }
  const requested = parseTime(result.requestedAt)?.getTime();
  const last = Math.max(...nodes.map((n) => parseTime(n.switchedAt)?.getTime() ?? 0));
  return requested && last >= requested ? last - requested : undefined;
}

export const settled = (p: Progress): boolean =>
  p.reverted.length > 0 || (p.effective && p.confirmed !== false);
