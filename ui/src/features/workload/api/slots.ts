import type { NodeSlots, Slot, WorkloadSummary } from "../../../api/wire";

/** One slot as three facts: what was asked for, what every kernel holds, whether that is confirmed. */
export interface SlotView {
  slot: Slot;
  requested: number | undefined;
  effective: number | undefined;
  /** The kernels do not hold what was asked for yet. */
  pending: boolean;
  /** Of the live slot only: whether every node's revision is confirmed. */
  confirmed: boolean | undefined;
}

const revision = (n: number | undefined): number | undefined => n || undefined;

export function slotView(s: WorkloadSummary, slot: Slot): SlotView {
  const requested = revision(s.requested[slot]);
  const effective = revision(s.effective[slot]);
  return {
    slot,
    requested,
    effective,
    pending: requested !== effective,
    confirmed:
      slot === "live" && effective !== undefined && requested === effective
        ? s.confirmed
        : undefined,
  };
}

/** Nodes that hold endpoints of the workload, or should. */
export const nodeNames = (nodes: NodeSlots[]): string[] => nodes.map((n) => n.node).sort();

export const waitingNodes = (nodes: NodeSlots[], slot: Slot, revisionNumber: number | undefined) =>
  nodes.filter((n) => n.connected && revision(n.effective[slot]) !== revision(revisionNumber));
