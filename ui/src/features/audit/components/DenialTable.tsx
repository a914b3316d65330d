import type { TFunction } from "i18next";
import { useTranslation } from "react-i18next";
import { type Denial, sameRef, type WorkloadRef } from "../../../api/wire";
import { formatCount } from "../../../app/format";
import { type Column, DataTable } from "../../../components/DataTable";
import { PartyName } from "../../../components/PartyName";
import { TextLink } from "../../../components/TextLink";
import { When } from "../../../components/When";
import { type DenialRow, groupDenials } from "../api/groups";
import { DenialList } from "./DenialList";

/** Denials in rows; compact where there is little room. */
export function DenialTable({
  denials,
  self,
  compact,
  without,
  flowsOf,
}: {
  denials: Denial[];
  self?: WorkloadRef;
  compact?: boolean;
  /** A column that says the same in every row. */
  without?: string;
  /** The filter of the records behind a row, where there is one. */
  flowsOf?: (d: Denial) => string;
}) {
  const { t } = useTranslation();
  const rows = groupDenials(denials, "none")[0]?.rows ?? [];
  if (compact) {
    return <DenialList rows={rows} />;
  }
  return (
    <DataTable
      label={t("denials.label")}
      columns={columnsOf(t, self, flowsOf).filter((c) => c.id !== without)}
      rows={rows}
      rowKey={(d) => d.key}
      rowTestId={() => "audit-row"}
    />
  );
}

const isSelf = (w: WorkloadRef | undefined, self: WorkloadRef | undefined) =>
  w !== undefined && self !== undefined && sameRef(w, self);

const columnsOf = (
  t: TFunction,
  self: WorkloadRef | undefined,
  flowsOf: ((d: Denial) => string) | undefined,
): Column<DenialRow>[] => [
  {
    id: "source",
    header: t("denials.columns.source"),
    lead: true,
    cell: (d) => <PartyName party={d.source} self={isSelf(d.source.workload, self)} />,
  },
  {
    id: "destination",
    header: t("denials.columns.destination"),
    wide: true,
    cell: (d) => <PartyName party={d.destination} self={isSelf(d.destination.workload, self)} />,
  },
  { id: "port", header: t("denials.columns.port"), cell: (d) => `${d.protocol} ${d.port || ""}` },
  {
    id: "direction",
    header: t("denials.columns.direction"),
    cell: (d) => t(`direction.${d.direction}`),
  },
  {
    id: "reason",
    header: t("denials.columns.reason"),
    cell: (d) => t([`reason.${d.reason}`, "reason.other"], { reason: d.reason }),
  },
  {
    id: "connections",
    header: t("denials.columns.connections"),
    numeric: true,
    cell: (d) =>
      flowsOf ? (
        <TextLink
          to="/flows"
          search={{ q: flowsOf(d) }}
          inherit
          fw={640}
          aria-label={t("denials.flowsOf", { count: d.connections })}
        >
          {formatCount(d.connections)}
        </TextLink>
      ) : (
        <strong>{formatCount(d.connections)}</strong>
      ),
  },
  {
    id: "packets",
    header: t("denials.columns.packets"),
    numeric: true,
    cell: (d) => formatCount(d.packets),
  },
  { id: "first", header: t("denials.columns.first"), cell: (d) => <When time={d.firstSeen} /> },
  { id: "last", header: t("denials.columns.last"), cell: (d) => <When time={d.lastSeen} /> },
];
