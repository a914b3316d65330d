import { describe, expect, test } from "vitest";
import { cart, cidrRule, recommendation, revision } from "../../../../test/shop";
import {
  acceptAll,
  afterSaving,
  cannotCreate,
  type Draft,
  decide,
  edit,
  emptyDraft,
  isFlagged,
  newRevision,
  policyOf,
  reviewOf,
} from "./draft";

const rec = recommendation("cartservice");
const review = (d: Draft, newest = revision(1, { policy: policyWith([]) })) =>
  reviewOf(rec, newest, d);
const fresh = (d: Draft) => reviewOf(rec, undefined, d);

function policyWith(egress: ReturnType<typeof cidrRule>[]) {
  return { workload: cart, isolateIngress: true, isolateEgress: true, ingress: [], egress };
}

describe("bulk acceptance", () => {
  test("takes every unflagged rule and no flagged one", () => {
    const before = fresh(emptyDraft);
    const after = fresh(acceptAll(emptyDraft, before.rules));
    const accepted = after.rules.filter((r) => r.decision === "accept");
    expect(accepted.length).toBe(5);
    expect(accepted.filter(isFlagged)).toEqual([]);
    expect(after.rules.filter((r) => !r.decision).map((r) => isFlagged(r))).toEqual([true, true]);
  });

  test("a rule that only follows from another is not flagged", () => {
    const implied = fresh(emptyDraft).rules.find((r) => r.recommended?.implied);
    expect(implied?.recommended?.flags.map((f) => f.code)).toEqual(["implied"]);
    expect(implied && isFlagged(implied)).toBe(false);
  });

  test("a rule marked for review is flagged without a flag", () => {
    const [first, ...rest] = rec.rules;
    const marked = first && { ...first, flags: [], proposed: "review" as const };
    const r = reviewOf({ ...rec, rules: marked ? [marked, ...rest] : [] }, undefined, emptyDraft);
    expect(r.bulk.some((x) => x.key === r.rules[0]?.key)).toBe(false);
  });
});

describe("the review", () => {
  test("decides nothing by itself", () => {
    const r = fresh(emptyDraft);
    expect([r.accepted, r.rejected, r.undecided]).toEqual([0, 0, 7]);
    expect(r.isolate).toEqual({ ingress: true, egress: true });
  });

  test("starts with the newest revision's rules accepted, also those not learned again", () => {
    const known = rec.rules.find((r) => r.direction === "ingress")?.rule;
    const byHand = cidrRule("192.0.2.0/24", 8443);
    const newest = revision(3, {
      policy: { ...policyWith([byHand]), ingress: known ? [known] : [] },
    });
    const r = reviewOf(rec, newest, emptyDraft);
    expect(r.rules.filter((x) => x.decision === "accept").map((x) => x.id)).toEqual([
      known?.id,
      byHand.id,
    ]);
    expect(r.rules.find((x) => x.id === byHand.id)?.recommended).toBeUndefined();
  });

  test("one rule in both directions is two decisions", () => {
    const rule = cidrRule("192.0.2.1/32", 53);
    const both = revision(1, {
      policy: { ...policyWith([rule]), ingress: [rule] },
    });
    const d = decide(emptyDraft, `ingress:${rule.id}`, "reject");
    const r = reviewOf(undefined, both, d);
    expect(r.rules.map((x) => [x.side, x.decision])).toEqual([
      ["ingress", "reject"],
      ["egress", "accept"],
    ]);
  });
});

describe("the policy", () => {
  test("holds accepted rules only, without ids, edited ones as edited", () => {
    const rules = fresh(emptyDraft).rules;
    const external = rules.find((r) => r.rule.peers[0]?.cidr);
    const narrow = {
      peers: [{ cidr: { prefix: "203.0.113.10/32" } }],
      ports: [{ protocol: "TCP", port: 443 }],
    };
    const d = edit(emptyDraft, external?.key ?? "", narrow);
    const p = policyOf(cart, fresh(d));
    expect(p).toEqual({
      workload: cart,
      isolateIngress: true,
      isolateEgress: true,
      ingress: [],
      egress: [narrow],
    });
  });

  test.each([
    [
      "only recommended rules",
      (d: Draft, key: string) => decide(d, key, "accept"),
      "recommendation",
    ],
    [
      "an edited rule",
      (d: Draft, key: string) =>
        edit(d, key, { peers: [{ reserved: "world" as const }], ports: [{ protocol: "TCP" }] }),
      "edit",
    ],
  ])("of %s has the right origin", (_name, step, origin) => {
    const key = fresh(emptyDraft).rules[0]?.key ?? "";
    expect(newRevision(cart, fresh(step(emptyDraft, key)), " ", 4)).toMatchObject({
      origin,
      parent: 4,
      comment: undefined,
    });
  });
});

test("a flagged rule is accepted by name, with every flag that was shown", () => {
  const all = fresh(acceptAll(emptyDraft, fresh(emptyDraft).rules));
  expect(newRevision(cart, all, "", 0).acceptedFlagged).toEqual([]);
  const flagged = all.rules.find(isFlagged);
  const accepted = fresh(decide(emptyDraft, flagged?.key ?? "", "accept"));
  const want = [{ rule: flagged?.id, flags: flagged?.recommended?.flags.map((f) => f.code) }];
  expect(want[0]?.flags?.length).toBeGreaterThan(0);
  expect(newRevision(cart, accepted, "", 0).acceptedFlagged).toEqual(want);
  const changed = fresh(edit(emptyDraft, flagged?.key ?? "", cidrRule("192.0.2.0/24", 1)));
  expect(newRevision(cart, changed, "", 0).acceptedFlagged).toEqual(want);
});

test("ids are the server's to give", () => {
  const p = policyOf(cart, fresh(acceptAll(emptyDraft, fresh(emptyDraft).rules)));
  expect([...p.ingress, ...p.egress].length).toBe(5);
  expect([...p.ingress, ...p.egress].filter((r) => "id" in r)).toEqual([]);
});

describe("after saving", () => {
  test("an edit is not offered again as what it was made of", () => {
    const key = fresh(emptyDraft).rules[0]?.key ?? "";
    const d = edit(emptyDraft, key, cidrRule("192.0.2.0/24", 1));
    const later = afterSaving({ ...d, comment: "text", isolate: { ingress: false } });
    expect(later).toEqual({ ...emptyDraft, decisions: { [key]: "reject" } });
    expect(fresh(later).rules[0]?.rule).toEqual(rec.rules[0]?.rule);
  });
});

describe("no revision can be made", () => {
  const key = fresh(emptyDraft).rules[0]?.key ?? "";
  const open: Draft = { ...emptyDraft, isolate: { ingress: false, egress: false } };
  test.each([
    ["before a decision", emptyDraft, undefined, "undecided"],
    ["that restricts and allows nothing", decide(open, key, "reject"), undefined, "nothing"],
    [
      "equal to the newest",
      emptyDraft,
      revision(2, { policy: policyWith([cidrRule("192.0.2.0/24", 1)]) }),
      "unchanged",
    ],
  ] as const)("%s", (_name, draft, newest, why) => {
    expect(cannotCreate(cart, reviewOf(rec, newest, draft), newest)).toBe(why);
  });

  test("but one that denies all, when that was decided", () => {
    expect(cannotCreate(cart, fresh(decide(emptyDraft, key, "reject")), undefined)).toBeUndefined();
    expect(
      cannotCreate(cart, review(decide(emptyDraft, key, "accept")), undefined),
    ).toBeUndefined();
  });
});
