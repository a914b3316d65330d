import { useEffect, useState } from "react";
import type { ErrorBody, Flow } from "../../../api/wire";
import { withArrived } from "../api/rows";

/** So many of the newest records begin a stream; they bridge the time without one. */
const overlap = 500;

export type TailState = "off" | "connecting" | "live" | "waiting" | "ended";

export interface Tail {
  state: TailState;
  rows: Flow[];
  problem: ErrorBody | undefined;
}

const nothing: Tail = { state: "off", rows: [], problem: undefined };

/** Records as they are stored, newest first, while it is on. */
export function useTail(filter: string, on: boolean): Tail {
  const [tail, setTail] = useState(nothing);
  useEffect(() => {
    setTail(nothing);
    if (!on) {
      return;
    }
    setTail({ ...nothing, state: "connecting" });
    const query = new URLSearchParams({ last: String(overlap) });
    if (filter) {
      query.set("filter", filter);
    }
    const source = new EventSource(`/api/v1/flows/tail?${query}`);
    source.addEventListener("flows", (e) =>
      setTail((t) => ({
        state: "live",
        rows: withArrived(t.rows, JSON.parse(e.data)),
        problem: undefined,
      })),
    );
    source.addEventListener("problem", (e) => {
      const problem: ErrorBody = JSON.parse(e.data);
      const passing = problem.code === "unavailable";
      if (!passing) {
        source.close();
      }
      setTail((t) => ({ ...t, state: passing ? "waiting" : "ended", problem }));
    });
    source.onerror = () =>
      setTail((t) =>
        t.state === "ended"
          ? t
          : { ...t, state: source.readyState === EventSource.CLOSED ? "ended" : "connecting" },
      );
    return () => source.close();
  }, [filter, on]);
  return tail;
}
