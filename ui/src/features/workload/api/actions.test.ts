import { describe, expect, test } from "vitest";
import { cart, cartWorkload, revision } from "../../../../test/shop";
import type { SlotAction } from "../../../api/mutations";
import type { Revision, SlotRevisions } from "../../../api/wire";
import { actionState, isolationOf } from "./actions";

describe("actionState", () => {
  const two = [revision(2), revision(1)];
  const cases: [
    name: string,
    action: SlotAction,
    requested: SlotRevisions,
    revisions: Revision[],
    words: string | undefined,
    wanted: [number | undefined, string | undefined],
  ][] = [
    ["audit the newest", "audit", {}, two, undefined, [2, undefined]],
    ["audit without a revision", "audit", {}, [], undefined, [undefined, "noRevision"]],
    ["audit what is audited", "audit", { staged: 2 }, two, undefined, [2, "alreadyStaged"]],
    ["audit what is live", "audit", { live: 2 }, two, undefined, [2, "alreadyLive"]],
    ["audit a newer one", "audit", { live: 1 }, two, undefined, [2, undefined]],
    ["enforce the staged one", "enforce", { staged: 1 }, two, undefined, [1, undefined]],
    ["enforce nothing", "enforce", {}, two, undefined, [undefined, "nothingStaged"]],
    [
      "enforce against the server's word",
      "enforce",
      { staged: 1 },
      two,
      "too early",
      [1, "too early"],
    ],
    ["roll back the live one", "rollback", { live: 2, staged: 1 }, two, undefined, [2, undefined]],
    ["roll back nothing", "rollback", { staged: 1 }, two, undefined, [undefined, "nothingLive"]],
    ["stop the audit", "unstage", { staged: 1 }, two, undefined, [1, undefined]],
  ];
  test.each(cases)("%s", (_name, action, requested, revisions, words, [number, blocked]) => {
    const w = cartWorkload((x) => {
      x.summary.requested = requested;
      if (words && action !== "unstage") {
        x.actions[action] = words;
      }
    });
    const state = actionState(action, w, revisions);
    expect(state.revision).toBe(number);
    const b = state.blocked;
    expect(b && ("words" in b ? b.words : b.text)).toBe(blocked);
  });
});

test.each([
  [true, true, "both"],
  [true, false, "ingress"],
  [false, true, "egress"],
  [false, false, "none"],
] as const)("isolation %s %s is %s", (isolateIngress, isolateEgress, wanted) => {
  const p = { workload: cart, isolateIngress, isolateEgress, ingress: [], egress: [] };
  expect(isolationOf(p)).toBe(wanted);
});
