import type { SlotAction } from "../../../api/mutations";
import type { Policy, Revision, Workload } from "../../../api/wire";

/** The buttons that are always there; the audit can be stopped only while there is one. */
export const slotActions: SlotAction[] = ["audit", "enforce", "rollback"];

/** Why something cannot be done: the server's words, or a text of ours. */
export type Blocked =
  | { words: string }
  | { text: "noRevision" | "nothingStaged" | "nothingLive" }
  | { text: "alreadyStaged" | "alreadyLive"; revision: number };

export interface ActionState {
  action: SlotAction;
  /** The revision it is about. */
  revision: number | undefined;
  blocked: Blocked | undefined;
  /** What stands against it is only this, which a person may pass over. */
  unlearned: string[] | undefined;
}

/** What each button would do now, or why it cannot. `newestFirst` is the revision list. */
export function actionState(
  action: SlotAction,
  w: Workload,
  newestFirst: Revision[] | undefined,
): ActionState {
  const { requested } = w.summary;
  const words = action === "unstage" ? undefined : w.actions[action];
  const newest = newestFirst?.[0]?.number;
  const revision = {
    audit: newest,
    unstage: requested.staged || undefined,
    enforce: requested.staged || undefined,
    rollback: requested.live || undefined,
  }[action];
  const unlearned = action === "enforce" ? w.actions.unlearned : undefined;
  const blocked = words ? { words } : ownReason(action, revision, w);
  return { action, revision, blocked, unlearned };
}

function ownReason(
  action: SlotAction,
  revision: number | undefined,
  w: Workload,
): Blocked | undefined {
  if (revision === undefined) {
    const text = {
      audit: "noRevision",
      unstage: "nothingStaged",
      enforce: "nothingStaged",
      rollback: "nothingLive",
    } as const;
    return { text: text[action] };
  }
  if (action === "audit" && revision === w.summary.requested.staged) {
    return { text: "alreadyStaged", revision };
  }
  if (action === "audit" && revision === w.summary.requested.live) {
    return { text: "alreadyLive", revision };
  }
  return undefined;
}

export type Isolation = "both" | "ingress" | "egress" | "none";

export function isolationOf(p: Policy): Isolation {
  if (p.isolateIngress && p.isolateEgress) {
    return "both";
  }
  return p.isolateIngress ? "ingress" : p.isolateEgress ? "egress" : "none";
}
