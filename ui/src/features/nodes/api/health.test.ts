import { describe, expect, test } from "vitest";
import { status } from "../../../../test/shop";
import { healthOf } from "./health";

const now = Date.now();
const node = (connected: boolean, more: object = {}) => ({
  name: "n",
  connected,
  endpoints: 1,
  panicked: false,
  generation: 1,
  ...more,
});

describe("nodes", () => {
  test.each([
    ["none yet", [], "idle"],
    ["all connected", [node(true), node(true)], "good"],
    ["one away", [node(true), node(false)], "warn"],
    ["all away", [node(false)], "bad"],
    ["one refused the state", [node(true, { error: "too many entries" })], "warn"],
    ["one in panic", [node(true, { panicked: true })], "warn"],
  ] as const)("%s", (_name, nodes, tone) => {
    expect(healthOf({ ...status(), nodes: [...nodes] }, now).nodes.tone).toBe(tone);
  });
});

test("before the first record nothing is observed, and no time either", () => {
  const s = status();
  for (const since of [undefined, "0001-01-01T00:00:00Z"]) {
    const h = healthOf({ ...s, learning: { ...s.learning, since } }, now);
    expect([h.observedFor, h.warmUp]).toEqual([undefined, undefined]);
  }
});

test("the warm-up ends at one", () => {
  const s = status();
  const since = new Date(now - 900_000).toISOString();
  const at = (warmUpSeconds: number) =>
    healthOf({ ...s, warmUpSeconds, learning: { ...s.learning, since } }, now).warmUp;
  expect([at(3600), at(60)]).toEqual([0.25, 1]);
});
