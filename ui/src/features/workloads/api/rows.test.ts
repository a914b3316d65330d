import { describe, expect, test } from "vitest";
import { workloads } from "../../../../test/shop";
import { countByStage, filterRows, namespacesOf, rowOf, sortRows, warmUpShare } from "./rows";
import { readWorkloadSearch } from "./search";

const all = workloads().map((w) => rowOf(w.summary));
const names = (rows: typeof all) => rows.map((r) => r.summary.workload.name);

describe("filterRows", () => {
  test.each([
    ["nothing", {}, 13],
    ["a word of the name", { q: "CART" }, 2],
    ["two words", { q: "cart redis" }, 1],
    ["a label", { q: "app=dns" }, 1],
    ["a namespace", { ns: "tools" }, 2],
    ["a stage", { stage: "enforce" as const }, 0],
    ["no match", { q: "cart", ns: "tools" }, 0],
  ])("by %s", (_name, search, n) => {
    expect(filterRows(all, search).length).toBe(n);
  });
});

test("a workload counts once, by the further of its directions", () => {
  const [first] = workloads();
  if (!first) {
    throw new Error("no workload");
  }
  const rows = [rowOf({ ...first.summary, ingressStage: "enforce", egressStage: "audit" })];
  expect(countByStage(rows)).toEqual({ observe: 0, audit: 0, enforce: 1 });
  expect(namespacesOf(all)).toEqual(["boutique", "tools"]);
});

test("sortRows sorts numbers as numbers, both ways, ties by name", () => {
  expect(names(sortRows(all, "edges", true)).slice(0, 3)).toEqual([
    "frontend",
    "checkoutservice",
    "cartservice",
  ]);
  expect(names(sortRows(all, "edges", false))[0]).toBe("adservice");
  expect(names(sortRows(all, "unknown", false))[0]).toBe("adservice");
});

test.each([
  ["unknown", undefined, 60, undefined],
  ["half", 970_000, 60, 0.5],
  ["done", 900_000, 60, 1],
  ["without a warm-up", 999_000, undefined, 1],
  ["a clock ahead", 1_005_000, 60, 0],
] as const)("warmUpShare %s", (_name, since, seconds, wanted) => {
  expect(warmUpShare(since, seconds, 1_000_000)).toBe(wanted);
});

test.each([
  [
    { q: "a", stage: "audit", desc: true },
    { q: "a", stage: "audit", desc: true },
  ],
  [{ q: 42, stage: "nonsense", desc: "yes", more: 1 }, { q: "42" }],
  [{}, {}],
])("readWorkloadSearch %o", (raw, wanted) => {
  expect(readWorkloadSearch(raw)).toEqual(wanted);
});
