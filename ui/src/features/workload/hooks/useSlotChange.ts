import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { withWorkload } from "../../../api/events";
import { changeSlot, type SlotAction } from "../../../api/mutations";
import { queries } from "../../../api/queries";
import { refKey, type SlotResult, type WorkloadRef } from "../../../api/wire";
import { type Progress, progressOf, settled } from "../api/progress";

export interface SlotRequest {
  action: SlotAction;
  revision: number;
  /** Of the slots when the dialog was opened: a change since then must be refused. */
  version: number;
  /** What learning lacks, for a person who enforces anyway and says why. */
  unlearned?: string[] | undefined;
  anyway?: string;
}

interface Change {
  request: SlotRequest;
  clickedAt: number;
  answeredAt: number;
  result: SlotResult;
}

export interface ChangeView {
  request: SlotRequest;
  progress: Progress;
  answerMillis: number;
  /** From the click until this page saw every node's confirmation. */
  confirmMillis: number | undefined;
}

/** Requests a change of slots and follows it until every node has confirmed it. */
export function useSlotChange(ref: WorkloadRef) {
  const queryClient = useQueryClient();
  const [change, setChange] = useState<Change>();
  const [confirmedAt, setConfirmedAt] = useState<number>();

  const mutation = useMutation({
    mutationFn: async (request: SlotRequest) => {
      const clickedAt = Date.now();
      const { action, revision, version, anyway } = request;
      const result = await changeSlot(action, ref, revision, version, anyway);
      return { request, clickedAt, answeredAt: Date.now(), result };
    },
    onMutate: () => {
      setChange(undefined);
      setConfirmedAt(undefined);
    },
    onSuccess: (done) => {
      setChange(done);
      queryClient.setQueryData(queries.workloads().queryKey, (list) =>
        withWorkload(list, done.result.summary),
      );
    },
    onSettled: () => {
      const key = refKey(ref);
      for (const kind of ["workload", "revisions", "denials"]) {
        void queryClient.invalidateQueries({ queryKey: [kind, key] });
      }
      void queryClient.invalidateQueries({ queryKey: ["activity"] });
    },
  });

  const live = useQuery({
    ...queries.workload(ref),
    refetchInterval: (q) =>
      change && !settled(progressOf(change.request.action, change.result, q.state.data))
        ? 500
        : 10_000,
  });
  const progress = change && progressOf(change.request.action, change.result, live.data);
  const confirmed = progress?.confirmed === true;
  useEffect(() => {
    if (confirmed) {
      setConfirmedAt((at) => at ?? Date.now());
    }
  }, [confirmed]);

  const view: ChangeView | undefined =
    change && progress
      ? {
          request: change.request,
          progress,
          answerMillis: change.answeredAt - change.clickedAt,
          confirmMillis: confirmedAt ? confirmedAt - change.clickedAt : undefined,
        }
      : undefined;
  return {
    request: mutation.mutate,
    pending: mutation.isPending,
    asked: mutation.variables,
    error: mutation.error,
    view,
    dismiss: () => {
      mutation.reset();
      setChange(undefined);
    },
  };
}

export type SlotChangeControl = ReturnType<typeof useSlotChange>;
