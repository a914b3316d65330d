import type { Status } from "../../../api/wire";
import { parseTime } from "../../../app/format";

export type Tone = "good" | "warn" | "bad" | "idle";

/** What the strip under the header says, free of words. */
export interface Health {
  nodes: { connected: number; all: number; tone: Tone };
  panicked: string[];
  /** Seconds since the first record; undefined before it. */
  observedFor: number | undefined;
  /** Of the warm-up, 0 to 1; undefined when the server names none. */
  warmUp: number | undefined;
  coverage: number;
  edges: number;
  connections: number;
  lost: number;
  store: Status["store"];
}

export function healthOf(s: Status, now: number): Health {
  const connected = s.nodes.filter((n) => n.connected).length;
  const troubled = s.nodes.some((n) => n.error || n.panicked);
  const since = parseTime(s.learning.since);
  const observedFor = since && Math.max(0, (now - since.getTime()) / 1000);
  return {
    nodes: {
      connected,
      all: s.nodes.length,
      tone:
        s.nodes.length === 0
          ? "idle"
          : connected === 0
            ? "bad"
            : connected < s.nodes.length || troubled
              ? "warn"
              : "good",
    },
    panicked: s.nodes.filter((n) => n.panicked).map((n) => n.name),
    observedFor,
    warmUp:
      observedFor !== undefined && s.warmUpSeconds
        ? Math.min(1, observedFor / s.warmUpSeconds)
        : undefined,
    coverage: s.learning.coverage,
    edges: s.learning.edges,
    connections: s.learning.connections,
    lost: s.learning.lostRecords,
    store: s.store,
  };
}
