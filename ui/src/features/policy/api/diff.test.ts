import { expect, test } from "vitest";
import { cart, cidrRule, revision } from "../../../../test/shop";
import { diffRevisions } from "./diff";

const a = cidrRule("192.0.2.1/32", 1);
const b = cidrRule("192.0.2.2/32", 2);
const c = cidrRule("2001:db8::1/128", 3);
const policy = (ingress: (typeof a)[], egress: (typeof a)[], isolateEgress = false) => ({
  workload: cart,
  isolateIngress: true,
  isolateEgress,
  ingress,
  egress,
});

test("says what comes, goes and stays, by direction", () => {
  const from = revision(1, { policy: policy([a, b], [a]) });
  const to = revision(2, { policy: policy([b, c], [a], true) });
  const d = diffRevisions(from, to);
  expect(d.rules.map((r) => [r.side, r.change, r.id])).toEqual([
    ["ingress", "added", c.id],
    ["ingress", "removed", a.id],
    ["ingress", "kept", b.id],
    ["egress", "kept", a.id],
  ]);
  expect([d.added, d.removed, d.isolation]).toEqual([1, 1, [{ side: "egress", on: true }]]);
});

test("against an empty slot everything is added", () => {
  const d = diffRevisions(undefined, revision(1, { policy: policy([a], [b]) }));
  expect(d.rules.map((r) => r.change)).toEqual(["added", "added"]);
  expect(d.isolation).toEqual([{ side: "ingress", on: true }]);
});
