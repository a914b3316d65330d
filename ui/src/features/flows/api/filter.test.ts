import { expect, test } from "vitest";
import type { Denial } from "../../../api/wire";
import {
  denialFilter,
  hasTerm,
  quoted,
  readFlowSearch,
  sinceOf,
  toggleTerm,
  withSince,
  workloadFilter,
} from "./filter";

const cart = { namespace: "shop", kind: "Host", name: "cart" };

test("values are quoted where the language needs it", () => {
  expect(["plain", "a b", "a,b", 'say "x" \\', ""].map(quoted)).toEqual([
    "plain",
    '"a b"',
    '"a,b"',
    '"say \\"x\\" \\\\"',
    '""',
  ]);
});

test("a press on a facet adds its condition and takes it away", () => {
  const term = 'to.namespace="a shop"';
  const once = toggleTerm("verdict=audited since=1h", term);
  expect(once).toBe('to.namespace="a shop" verdict=audited since=1h');
  expect(hasTerm(once, term)).toBe(true);
  expect(toggleTerm(once, term)).toBe("verdict=audited since=1h");
  expect(hasTerm("to.port=4430", "to.port=443")).toBe(false);
  expect(hasTerm("-to.port=443", "to.port=443")).toBe(false);
});

test("the window is a condition like any other", () => {
  expect(sinceOf("to.port=1 since=24h node=x")).toBe("24h");
  expect(sinceOf("to.port=1")).toBe("");
  expect(withSince("to.port=1 since=24h node=x", "7d")).toBe("to.port=1 node=x since=7d");
  expect(withSince("since=1h", "")).toBe("");
  expect(withSince("", "15m")).toBe("since=15m");
});

test("the address keeps the filter, also a numeric one", () => {
  expect(readFlowSearch({ q: "a=b" })).toEqual({ q: "a=b" });
  expect(readFlowSearch({ q: 5 })).toEqual({ q: "5" });
  expect(readFlowSearch({ q: "" })).toEqual({ q: "" });
  expect(readFlowSearch({ x: 1 })).toEqual({});
});

test("links ask for what they stand beside", () => {
  expect(workloadFilter(cart)).toBe("workload=shop/Host/cart since=1h");
  const denial = {
    direction: "ingress",
    source: { reserved: "world", address: "192.0.2.1" },
    destination: { workload: cart },
    protocol: "TCP",
    port: 6379,
    reason: "default-deny",
  } as Denial;
  expect(denialFilter(cart, "staged", 2, "2026-01-01T00:00:00Z", denial)).toBe(
    "observer=shop/Host/cart staged.verdict=deny staged.revision=2 direction=ingress " +
      "from.address=192.0.2.1 to.workload=shop/Host/cart protocol=TCP to.port=6379 " +
      "staged.reason=default-deny since=2026-01-01T00:00:00Z",
  );
  expect(denialFilter(cart, "live", undefined, undefined)).toBe(
    "observer=shop/Host/cart live.verdict=deny",
  );
});
