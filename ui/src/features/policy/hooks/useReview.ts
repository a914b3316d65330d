import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useMemo } from "react";
import { createRevision, replay } from "../../../api/mutations";
import { queries, sinceOf } from "../../../api/queries";
import { type Policy, type Revision, refKey, type WorkloadRef } from "../../../api/wire";
import { afterSaving, newRevision, policyOf, reviewOf } from "../api/draft";
import { useDraft } from "./drafts";

/** The revision a review starts from: the newest that a person made, not a way back. */
export const baseRevision = (newestFirst: Revision[] | undefined): Revision | undefined =>
  newestFirst?.find((r) => r.origin !== "rollback");

/** One workload's review: what was learned, what is decided, and what can be done with it. */
export function useReview(ref: WorkloadRef, sinceHours: number | undefined) {
  const queryClient = useQueryClient();
  const recommendation = useQuery(queries.recommendation(ref, sinceHours));
  const revisions = useQuery(queries.revisions(ref));
  const { draft, change } = useDraft(ref);
  const base = baseRevision(revisions.data);
  const review = useMemo(
    () => reviewOf(recommendation.data, base, draft),
    [recommendation.data, base, draft],
  );

  const create = useMutation({
    mutationFn: () =>
      createRevision(
        ref,
        newRevision(ref, review, draft.comment, revisions.data?.[0]?.number ?? 0),
      ),
    onSuccess: (revision) => {
      queryClient.setQueryData(queries.revisions(ref).queryKey, (list) => [
        revision,
        ...(list ?? []),
      ]);
      void queryClient.invalidateQueries({ queryKey: ["workload", refKey(ref)] });
      change(afterSaving);
    },
    // A conflict means that the list is old.
    onError: () => void queryClient.invalidateQueries({ queryKey: ["revisions", refKey(ref)] }),
  });

  const policy = useMemo(() => policyOf(ref, review), [ref, review]);
  const check = useMutation({
    mutationFn: (p: Policy) => replay(ref, p, sinceOf(sinceHours)),
  });
  // A result is shown only for what it is the result of.
  const checked = JSON.stringify(check.variables) === JSON.stringify(policy);

  return {
    recommendation,
    revisions,
    base,
    review,
    draft,
    change,
    create,
    check: {
      run: () => check.mutate(policy),
      pending: check.isPending,
      error: checked ? check.error : null,
      data: checked ? check.data : undefined,
    },
  };
}

export type ReviewControl = ReturnType<typeof useReview>;
