import type { Denial } from "../../../api/wire";

export type GroupBy = "none" | "source" | "destination" | "port" | "direction" | "reason";
export const groupings: GroupBy[] = [
  "none",
  "source",
  "destination",
  "port",
  "direction",
  "reason",
];

export interface DenialRow extends Denial {
  key: string;
}

export interface DenialGroup {
  key: string;
  /** What all of its rows share. */
  sample: DenialRow;
  rows: DenialRow[];
  connections: number;
  packets: number;
  firstSeen: string;
  lastSeen: string;
}

// An endpoint is left out of a group's key: replicas are one source.
const partyKey = (d: Denial["source"]): unknown =>
  d.workload?.name
    ? [d.workload.namespace, d.workload.kind, d.workload.name]
    : [d.reserved, d.address];

const keys: Record<GroupBy, (d: Denial) => unknown> = {
  none: () => "",
  source: (d) => partyKey(d.source),
  destination: (d) => partyKey(d.destination),
  port: (d) => [d.protocol, d.port],
  direction: (d) => d.direction,
  reason: (d) => d.reason,
};

/** Groups denials by one property, most connections first, in the groups too. */
export function groupDenials(denials: Denial[], by: GroupBy): DenialGroup[] {
  const groups = new Map<string, DenialGroup>();
  for (const d of denials) {
    const row = { ...d, key: rowKey(d) };
    const key = JSON.stringify(keys[by](d));
    const g = groups.get(key);
    if (!g) {
      const { connections, packets, firstSeen, lastSeen } = d;
      groups.set(key, { key, sample: row, rows: [row], connections, packets, firstSeen, lastSeen });
      continue;
    }
    g.rows.push(row);
    g.connections += d.connections;
    g.packets += d.packets;
    g.firstSeen = [g.firstSeen, d.firstSeen].sort()[0] ?? g.firstSeen;
    g.lastSeen = [g.lastSeen, d.lastSeen].sort()[1] ?? g.lastSeen;
  }
  const most = <T extends { connections: number; key: string }>(a: T, b: T) =>
    b.connections - a.connections || (a.key < b.key ? -1 : 1);
  return [...groups.values()].map((g) => ({ ...g, rows: g.rows.toSorted(most) })).sort(most);
}

const rowKey = (d: Denial): string =>
  JSON.stringify([d.direction, d.source, d.destination, d.protocol, d.port, d.reason]);
