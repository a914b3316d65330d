import type {
  AcceptedFlagged,
  Flag,
  NewRevision,
  Policy,
  Recommendation,
  RecommendedRule,
  Revision,
  Rule,
  WorkloadRef,
} from "../../../api/wire";

export type Side = "ingress" | "egress";
export const sides: Side[] = ["ingress", "egress"];

export type Decision = "accept" | "reject";

/** What a reviewer has decided so far; keyed so that it survives a fresh recommendation. */
export interface Draft {
  decisions: Record<string, Decision | "none">;
  edits: Record<string, Rule>;
  isolate: Partial<Record<Side, boolean>>;
  comment: string;
}

export const emptyDraft: Draft = { decisions: {}, edits: {}, isolate: {}, comment: "" };

/** One rule under review: recommended, or carried over from the newest revision. */
export interface DraftRule {
  key: string;
  id: string;
  side: Side;
  /** As it would be saved. */
  rule: Rule;
  sentence: string;
  recommended: RecommendedRule | undefined;
  /** The newest revision has this very rule. */
  inRevision: boolean;
  edited: boolean;
  decision: Decision | undefined;
}

export interface Review {
  rules: DraftRule[];
  isolate: Record<Side, boolean>;
  observed: Record<Side, boolean>;
  accepted: number;
  rejected: number;
  undecided: number;
  /** Undecided rules without a flag: the only ones that may be accepted together. */
  bulk: DraftRule[];
}

const keyOf = (side: Side, id: string): string => `${side}:${id}`;

interface Found {
  side: Side;
  rule: Rule;
  sentence: string;
  recommended?: RecommendedRule;
}

function recommendedRules(rec: Recommendation | undefined): Found[] {
  return (rec?.rules ?? []).flatMap((r) =>
    r.direction === "unknown"
      ? []
      : [{ side: r.direction, rule: r.rule, sentence: r.sentence, recommended: r }],
  );
}

function revisionRules(rev: Revision | undefined): Found[] {
  return sides.flatMap((side) =>
    (rev?.policy[side] ?? []).map((rule) => ({
      side,
      rule,
      sentence: rev?.rules.find((s) => s.id === rule.id && s.direction === side)?.sentence ?? "",
    })),
  );
}

/** Joins what was learned, what the newest revision holds and what was decided. */
export function reviewOf(
  rec: Recommendation | undefined,
  newest: Revision | undefined,
  draft: Draft,
): Review {
  const carried = revisionRules(newest);
  const inRevision = new Set(carried.map((f) => keyOf(f.side, f.rule.id ?? "")));
  const learned = recommendedRules(rec);
  const known = new Set(learned.map((f) => keyOf(f.side, f.rule.id ?? "")));
  const rules = [
    ...learned,
    ...carried.filter((f) => !known.has(keyOf(f.side, f.rule.id ?? ""))),
  ].map((found) => draftRule(found, inRevision, draft));
  return {
    rules,
    isolate: {
      ingress:
        draft.isolate.ingress ?? newest?.policy.isolateIngress ?? rec?.isolateIngress ?? false,
      egress: draft.isolate.egress ?? newest?.policy.isolateEgress ?? rec?.isolateEgress ?? false,
    },
    observed: { ingress: rec?.ingressObserved ?? false, egress: rec?.egressObserved ?? false },
    accepted: rules.filter((r) => r.decision === "accept").length,
    rejected: rules.filter((r) => r.decision === "reject").length,
    undecided: rules.filter((r) => !r.decision).length,
    bulk: rules.filter((r) => !r.decision && !isFlagged(r)),
  };
}

function draftRule(found: Found, inRevision: Set<string>, draft: Draft): DraftRule {
  const id = found.rule.id ?? "";
  const key = keyOf(found.side, id);
  const edit = draft.edits[key];
  const chosen = draft.decisions[key];
  return {
    key,
    id,
    side: found.side,
    rule: edit ?? found.rule,
    sentence: found.sentence,
    recommended: found.recommended,
    inRevision: inRevision.has(key),
    edited: edit !== undefined,
    decision:
      chosen === "none" ? undefined : (chosen ?? (inRevision.has(key) ? "accept" : undefined)),
  };
}

// That a rule follows from another is a remark, not a warning.
const remarkCode = "implied";

export const warnings = (r: RecommendedRule | undefined): Flag[] =>
  r?.flags.filter((f) => f.code !== remarkCode) ?? [];

export const remark = (r: RecommendedRule): string | undefined =>
  r.flags.find((f) => f.code === remarkCode)?.reason;

/** Flagged rules are decided one by one, and so is what the server marks for review. */
export const isFlagged = (r: DraftRule): boolean =>
  warnings(r.recommended).length > 0 || r.recommended?.proposed === "review";

export const decide = (d: Draft, key: string, decision: Decision | "none"): Draft => ({
  ...d,
  decisions: { ...d.decisions, [key]: decision },
});

export const acceptAll = (d: Draft, rules: DraftRule[]): Draft => ({
  ...d,
  decisions: {
    ...d.decisions,
    ...Object.fromEntries(rules.filter((r) => !isFlagged(r)).map((r) => [r.key, "accept"])),
  },
});

/** An edited rule is accepted as edited; undefined takes the edit back. */
export function edit(d: Draft, key: string, rule: Rule | undefined): Draft {
  const edits = { ...d.edits };
  if (rule) {
    edits[key] = rule;
  } else {
    delete edits[key];
  }
  return { ...d, edits, decisions: { ...d.decisions, [key]: rule ? "accept" : "none" } };
}

/** Once saved, edits are rules of the revision, and what they were made of is not wanted any more. */
export const afterSaving = (d: Draft): Draft => ({
  ...emptyDraft,
  decisions: {
    ...d.decisions,
    ...Object.fromEntries(Object.keys(d.edits).map((key) => [key, "reject"])),
  },
});

// The server computes ids; one that is sent is ignored.
const bare = (r: Rule): Rule => ({ peers: r.peers, ports: r.ports });

export function policyOf(workload: WorkloadRef, review: Review): Policy {
  const accepted = (side: Side) =>
    review.rules.filter((r) => r.side === side && r.decision === "accept").map((r) => bare(r.rule));
  return {
    workload,
    isolateIngress: review.isolate.ingress,
    isolateEgress: review.isolate.egress,
    ingress: accepted("ingress"),
    egress: accepted("egress"),
  };
}

export function newRevision(
  workload: WorkloadRef,
  review: Review,
  comment: string,
  parent: number,
): NewRevision {
  const byHand = review.rules.some((r) => r.decision === "accept" && (r.edited || !r.recommended));
  return {
    policy: policyOf(workload, review),
    origin: byHand ? "edit" : "recommendation",
    comment: comment.trim() || undefined,
    parent,
    acceptedFlagged: acceptedFlagged(review),
  };
}

/** What the server takes for accepted one by one: each flagged rule with the flags that were shown. */
const acceptedFlagged = (review: Review): AcceptedFlagged[] =>
  review.rules
    .filter((r) => r.decision === "accept" && isFlagged(r))
    .map((r) => ({ rule: r.id, flags: r.recommended?.flags.map((f) => f.code) ?? [] }));

export type CannotCreate = "undecided" | "nothing" | "unchanged" | undefined;

/** Why no revision can be made of the review yet. */
export function cannotCreate(
  workload: WorkloadRef,
  review: Review,
  newest: Revision | undefined,
): CannotCreate {
  if (review.rules.length > 0 && review.accepted + review.rejected === 0) {
    return "undecided";
  }
  if (review.accepted === 0 && !review.isolate.ingress && !review.isolate.egress) {
    return "nothing";
  }
  return newest && samePolicy(policyOf(workload, review), newest.policy) ? "unchanged" : undefined;
}

function samePolicy(a: Policy, b: Policy): boolean {
  const text = (rules: Rule[]) =>
    rules
      .map((r) => JSON.stringify(bare(r)))
      .sort()
      .join();
  return (
    a.isolateIngress === b.isolateIngress &&
    a.isolateEgress === b.isolateEgress &&
    sides.every((s) => text(a[s]) === text(b[s]))
  );
}
