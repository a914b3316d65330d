import { infiniteQueryOptions, keepPreviousData, queryOptions } from "@tanstack/react-query";
import { client, unwrap } from "./client";
import { isUnauthorized } from "./error";
import { type Ask, refKey, type Session, type Slot, type WorkloadRef } from "./wire";

const pageSize = 100;
const path = (ref: WorkloadRef) => ({ namespace: ref.namespace, kind: ref.kind, name: ref.name });

/** Every read of the API: its key and how to fetch it. */
export const queries = {
  session: () =>
    queryOptions({
      queryKey: ["session"],
      staleTime: 60_000,
      queryFn: async ({ signal }): Promise<Session | null> => {
        try {
          return await unwrap(client.GET("/api/v1/session", { signal }));
        } catch (e) {
          if (isUnauthorized(e)) {
            return null;
          }
          throw e;
        }
      },
    }),

  status: () =>
    queryOptions({
      queryKey: ["status"],
      refetchInterval: 15_000,
      queryFn: ({ signal }) => unwrap(client.GET("/api/v1/status", { signal })),
    }),

  activity: (workload?: string) =>
    infiniteQueryOptions({
      queryKey: ["activity", workload ?? ""],
      initialPageParam: undefined as number | undefined,
      queryFn: ({ signal, pageParam }) =>
        unwrap(
          client.GET("/api/v1/activity", {
            signal,
            params: { query: { limit: pageSize, before: pageParam, workload } },
          }),
        ),
      getNextPageParam: (last) => (last.length < pageSize ? undefined : last.at(-1)?.id),
    }),

  workloads: () =>
    queryOptions({
      queryKey: ["workloads"],
      refetchInterval: 15_000,
      queryFn: ({ signal }) => unwrap(client.GET("/api/v1/workloads", { signal })),
    }),

  workload: (ref: WorkloadRef) =>
    queryOptions({
      queryKey: ["workload", refKey(ref)],
      queryFn: ({ signal }) =>
        unwrap(
          client.GET("/api/v1/workloads/{namespace}/{kind}/{name}", {
            signal,
            params: { path: path(ref) },
          }),
        ),
      // Why something cannot be done yet often changes with time alone.
      refetchInterval: (q) => (q.state.data?.actions.enforce ? 3000 : 10_000),
    }),

  // Not fetched again by itself: rules must not move under the reviewer's hand.
  recommendation: (ref: WorkloadRef, sinceHours?: number) =>
    queryOptions({
      queryKey: ["recommendation", refKey(ref), sinceHours ?? 0],
      staleTime: Number.POSITIVE_INFINITY,
      refetchOnWindowFocus: false,
      queryFn: ({ signal }) =>
        unwrap(
          client.GET("/api/v1/workloads/{namespace}/{kind}/{name}/recommendation", {
            signal,
            params: { path: path(ref), query: { since: sinceOf(sinceHours) } },
          }),
        ),
    }),

  revisions: (ref: WorkloadRef) =>
    queryOptions({
      queryKey: ["revisions", refKey(ref)],
      queryFn: ({ signal }) =>
        unwrap(
          client.GET("/api/v1/workloads/{namespace}/{kind}/{name}/revisions", {
            signal,
            params: { path: path(ref) },
          }),
        ),
    }),

  check: (ref: WorkloadRef, slot: Slot) =>
    queryOptions({
      queryKey: ["check", refKey(ref), slot],
      staleTime: 60_000,
      queryFn: ({ signal }) =>
        unwrap(
          client.GET("/api/v1/workloads/{namespace}/{kind}/{name}/check", {
            signal,
            params: { path: path(ref), query: { slot } },
          }),
        ),
    }),

  explanation: (ask: Ask) =>
    queryOptions({
      queryKey: ["explanation", ask],
      queryFn: ({ signal }) =>
        unwrap(client.GET("/api/v1/explain", { signal, params: { query: ask } })),
    }),

  // Not fetched again by themselves: who wants what comes follows it.
  flows: (filter: string) =>
    infiniteQueryOptions({
      queryKey: ["flows", filter],
      refetchOnWindowFocus: false,
      refetchOnReconnect: false,
      initialPageParam: undefined as string | undefined,
      queryFn: ({ signal, pageParam }) =>
        unwrap(
          client.GET("/api/v1/flows", {
            signal,
            params: { query: { filter: filter || undefined, limit: 200, cursor: pageParam } },
          }),
        ),
      getNextPageParam: (last) => last.next,
    }),

  // Some of the records behind a piece of evidence: they do not change any more.
  samples: (filter: string) =>
    queryOptions({
      queryKey: ["samples", filter],
      staleTime: Number.POSITIVE_INFINITY,
      retry: false,
      queryFn: ({ signal }) =>
        unwrap(client.GET("/api/v1/flows", { signal, params: { query: { filter, limit: 3 } } })),
    }),

  facets: (filter: string) =>
    queryOptions({
      queryKey: ["facets", filter],
      refetchOnWindowFocus: false,
      placeholderData: keepPreviousData,
      queryFn: ({ signal }) =>
        unwrap(
          client.GET("/api/v1/flows/facets", {
            signal,
            params: { query: { filter: filter || undefined, top: 8 } },
          }),
        ),
    }),

  denials: (ref: WorkloadRef, slot: Slot, sinceHours?: number) =>
    queryOptions({
      queryKey: ["denials", refKey(ref), slot, sinceHours ?? 0],
      refetchInterval: 10_000,
      placeholderData: keepPreviousData,
      queryFn: ({ signal }) =>
        unwrap(
          client.GET("/api/v1/workloads/{namespace}/{kind}/{name}/denials", {
            signal,
            params: { path: path(ref), query: { slot, since: sinceOf(sinceHours) } },
          }),
        ),
    }),
};

/** The start of a window that ends now; undefined leaves it to the server. */
export function sinceOf(hours: number | undefined, now = Date.now()): string | undefined {
  return hours ? new Date(now - hours * 3_600_000).toISOString() : undefined;
}
