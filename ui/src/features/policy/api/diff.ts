import type { Policy, Revision } from "../../../api/wire";
import { type Side, sides } from "./draft";

export interface RuleChange {
  change: "added" | "removed" | "kept";
  side: Side;
  id: string;
  sentence: string;
}

export interface RevisionDiff {
  rules: RuleChange[];
  added: number;
  removed: number;
  /** Directions whose default-deny comes or goes. */
  isolation: { side: Side; on: boolean }[];
}

interface Line {
  side: Side;
  id: string;
  sentence: string;
}

const lines = (r: Revision | undefined): Line[] =>
  (r?.rules ?? []).flatMap((s) =>
    s.direction === "unknown" ? [] : [{ side: s.direction, id: s.id, sentence: s.sentence }],
  );

const isolated = (p: Policy | undefined, side: Side): boolean =>
  (side === "ingress" ? p?.isolateIngress : p?.isolateEgress) ?? false;

/** What changes when `to` takes the place of `from`; no `from` is an empty slot. */
export function diffRevisions(from: Revision | undefined, to: Revision): RevisionDiff {
  const before = lines(from);
  const after = lines(to);
  const has = (list: Line[], l: Line) => list.some((x) => x.id === l.id && x.side === l.side);
  const rules: RuleChange[] = [
    ...after.map((l) => ({
      ...l,
      change: has(before, l) ? ("kept" as const) : ("added" as const),
    })),
    ...before.filter((l) => !has(after, l)).map((l) => ({ ...l, change: "removed" as const })),
  ];
  const rank = { added: 0, removed: 1, kept: 2 };
  rules.sort(
    (a, b) => sides.indexOf(a.side) - sides.indexOf(b.side) || rank[a.change] - rank[b.change],
  );
  return {
    rules,
    added: rules.filter((r) => r.change === "added").length,
    removed: rules.filter((r) => r.change === "removed").length,
    isolation: sides
      .filter((s) => isolated(from?.policy, s) !== isolated(to.policy, s))
      .map((side) => ({ side, on: isolated(to.policy, side) })),
  };
}
