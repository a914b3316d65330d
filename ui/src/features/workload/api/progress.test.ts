import { describe, expect, test } from "vitest";
import { cartWorkload } from "../../../../test/shop";
import type { NodeSlots, SlotResult } from "../../../api/wire";
import { progressOf, settled } from "./progress";
import { slotView } from "./slots";

const requestedAt = "2026-01-02T03:04:05.000Z";

function result(nodes: Partial<NodeSlots>[], switchedAt?: string): SlotResult {
  const w = cartWorkload((x) => {
    x.summary.requested = { live: 3, staged: 4 };
    x.summary.version = 7;
  });
  return {
    summary: w.summary,
    requestedAt,
    switchedAt,
    detail: "node-2 has not answered",
    nodes: nodes.map((n, i) => ({
      node: `node-${i + 1}`,
      connected: true,
      confirmed: true,
      endpoints: 1,
      effective: { live: 3, staged: 4 },
      ...n,
    })),
  };
}

describe("progressOf", () => {
  test("waits for each connected node, not for one that is away", () => {
    const p = progressOf(
      "enforce",
      result([{}, { effective: { live: 2 } }, { connected: false, effective: {} }]),
    );
    expect(p).toMatchObject({
      effective: false,
      waiting: ["node-2"],
      disconnected: ["node-3"],
      detail: "node-2 has not answered",
    });
    expect(settled(p)).toBe(false);
  });

  test("is in the kernels, but not confirmed by one node", () => {
    const p = progressOf("enforce", result([{}, { confirmed: false }], "2026-01-02T03:04:05.038Z"));
    expect(p).toMatchObject({
      effective: true,
      switchMillis: 38,
      confirmed: false,
      unconfirmed: ["node-2"],
    });
    expect(settled(p)).toBe(false);
  });

  test("is confirmed by all", () => {
    const p = progressOf("rollback", result([{}, {}]));
    expect(p).toMatchObject({ effective: true, confirmed: true, detail: undefined });
    expect(settled(p)).toBe(true);
  });

  test("a node that went back by itself is an end, and none that waits", () => {
    const p = progressOf("enforce", result([{}, { effective: { live: 1 }, revertedFrom: 3 }]));
    expect(p).toMatchObject({ effective: false, reverted: ["node-2"], waiting: [] });
    expect(settled(p)).toBe(true);
  });

  test("an audit needs no confirmation", () => {
    const p = progressOf("audit", result([{ confirmed: false }]));
    expect(p).toMatchObject({ effective: true, confirmed: undefined });
    expect(settled(p)).toBe(true);
  });

  test("goes by the newest state, but never by one from before the click", () => {
    const answer = result([{ effective: { live: 2 } }]);
    const late = cartWorkload((x) => {
      x.summary.version = 7;
      x.nodes = [
        { node: "node-1", connected: true, confirmed: true, endpoints: 1, effective: { live: 3 } },
      ];
    });
    expect(progressOf("enforce", answer, late).effective).toBe(true);
    late.summary.version = 6;
    expect(progressOf("enforce", answer, late).effective).toBe(false);
  });

  test("takes the time from the nodes where the server names none", () => {
    const p = progressOf(
      "enforce",
      result([
        { switchedAt: "2026-01-02T03:04:05.020Z" },
        { switchedAt: "2026-01-02T03:04:05.061Z" },
      ]),
    );
    expect(p.switchMillis).toBe(61);
  });
});

describe("slotView", () => {
  const { summary } = cartWorkload();
  test.each([
    ["empty", {}, {}, true, [undefined, undefined, false, undefined]],
    ["requested only", { live: 2 }, {}, true, [2, undefined, true, undefined]],
    ["changing", { live: 2 }, { live: 1 }, true, [2, 1, true, undefined]],
    ["not confirmed", { live: 2 }, { live: 2 }, false, [2, 2, false, false]],
    ["as it should be", { live: 2 }, { live: 2 }, true, [2, 2, false, true]],
  ] as const)("%s", (_name, requested, effective, confirmed, wanted) => {
    const v = slotView({ ...summary, requested, effective, confirmed }, "live");
    expect([v.requested, v.effective, v.pending, v.confirmed]).toEqual(wanted);
  });
});
