import type { InfiniteData, QueryClient } from "@tanstack/react-query";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { queries } from "./queries";
import { type Activity, refKey, type Status, type WorkloadSummary } from "./wire";

export type StreamState = "connecting" | "live" | "lost";

/** The list with one workload replaced or inserted in the list's order. */
export function withWorkload(
  list: WorkloadSummary[] | undefined,
  w: WorkloadSummary,
): WorkloadSummary[] | undefined {
  if (!list) {
    return undefined;
  }
  const key = refKey(w.workload);
  const rest = list.filter((x) => refKey(x.workload) !== key);
  const at = rest.findIndex((x) => refKey(x.workload) > key);
  return rest.toSpliced(at < 0 ? rest.length : at, 0, w);
}

/** The log with a new entry first; one that is there already is left alone. */
export function withActivity(
  data: InfiniteData<Activity[]> | undefined,
  entry: Activity,
): InfiniteData<Activity[]> | undefined {
  const first = data?.pages[0];
  if (!data || !first || first.some((a) => a.id >= entry.id)) {
    return data;
  }
  return { ...data, pages: [[entry, ...first], ...data.pages.slice(1)] };
}

/** Writes events into the query cache. Summaries come often, so what they make stale is fetched at most once a `pause`. */
export class CacheWriter {
  private readonly queryClient: QueryClient;
  private readonly pause: number;
  private readonly waiting = new Map<string, ReturnType<typeof setTimeout>>();

  constructor(queryClient: QueryClient, pause = 1000) {
    this.queryClient = queryClient;
    this.pause = pause;
  }

  status(s: Status): void {
    this.queryClient.setQueryData(queries.status().queryKey, s);
  }

  workload(w: WorkloadSummary): void {
    const before = this.queryClient
      .getQueryData(queries.workloads().queryKey)
      ?.find((x) => refKey(x.workload) === refKey(w.workload));
    this.queryClient.setQueryData(queries.workloads().queryKey, (list) => withWorkload(list, w));
    const key = refKey(w.workload);
    const moved = before?.version !== w.version || before?.confirmed !== w.confirmed;
    this.refreshLater(["workload", key], moved ? 0 : this.pause);
    if (!before || before.version !== w.version) {
      this.refreshLater(["revisions", key], 0);
    }
    if (!before || before.wouldDeny !== w.wouldDeny || before.denied !== w.denied) {
      this.refreshLater(["denials", key], this.pause);
    }
  }

  activity(a: Activity): void {
    const names = a.workload ? [undefined, refKey(a.workload)] : [undefined];
    for (const name of names) {
      this.queryClient.setQueryData(queries.activity(name).queryKey, (d) => withActivity(d, a));
    }
  }

  close(): void {
    for (const t of this.waiting.values()) {
      clearTimeout(t);
    }
    this.waiting.clear();
  }

  private refreshLater(key: string[], pause: number): void {
    const name = key.join(" ");
    if (this.waiting.has(name)) {
      return;
    }
    const timer = setTimeout(() => {
      this.waiting.delete(name);
      void this.queryClient.invalidateQueries({ queryKey: key });
    }, pause);
    this.waiting.set(name, timer);
  }
}

const retryAfter = 5000;

/** Reads that must not move under the reader's hand. */
const still: unknown[] = ["recommendation", "flows", "facets"];

/** Keeps the cache live while mounted, and says how the stream is. */
export function useEvents(): StreamState {
  const queryClient = useQueryClient();
  const [state, setState] = useState<StreamState>("connecting");

  useEffect(() => {
    const writer = new CacheWriter(queryClient);
    let source: EventSource | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let lost = false;

    const open = () => {
      source = new EventSource("/api/v1/events");
      source.onopen = () => {
        setState("live");
        if (lost) {
          lost = false;
          void queryClient.invalidateQueries({
            predicate: (q) => !still.includes(q.queryKey[0]),
          });
        }
      };
      source.onerror = () => {
        lost = true;
        setState("lost");
        // A refused stream is closed for good: see whether the session ended, then try again.
        if (source?.readyState === EventSource.CLOSED) {
          void queryClient.invalidateQueries({ queryKey: queries.session().queryKey });
          timer = setTimeout(open, retryAfter);
        }
      };
      source.addEventListener("status", (e) => writer.status(JSON.parse(e.data)));
      source.addEventListener("workload", (e) => writer.workload(JSON.parse(e.data)));
      source.addEventListener("activity", (e) => writer.activity(JSON.parse(e.data)));
    };
    open();
    return () => {
      clearTimeout(timer);
      source?.close();
      writer.close();
    };
  }, [queryClient]);

  return state;
}
