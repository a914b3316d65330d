import type { TFunction } from "i18next";
import { useTranslation } from "react-i18next";
import { type ExcludedEdge, sameRef, type WorkloadRef } from "../../../api/wire";
import { formatCount } from "../../../app/format";
import { type Column, DataTable } from "../../../components/DataTable";
import { Panel } from "../../../components/Panel";
import { PartyName } from "../../../components/PartyName";

/** Traffic that was seen and made no rule, with the reason. */
export function ExcludedPanel({
  edges,
  workload,
}: {
  edges: ExcludedEdge[];
  workload: WorkloadRef;
}) {
  const { t } = useTranslation();
  return (
    <Panel
      title={t("excluded.title", { count: edges.length })}
      note={t("excluded.note")}
      flush
      testId="excluded"
    >
      <DataTable
        label={t("excluded.label")}
        columns={columnsOf(t, workload)}
        rows={edges}
        rowKey={(e) =>
          JSON.stringify([e.direction, e.source, e.destination, e.protocol, e.port, e.reason])
        }
        rowTestId={() => "excluded-row"}
      />
    </Panel>
  );
}

const isSelf = (w: WorkloadRef | undefined, self: WorkloadRef) => w && sameRef(w, self);

const columnsOf = (t: TFunction, self: WorkloadRef): Column<ExcludedEdge>[] => [
  {
    id: "source",
    header: t("denials.columns.source"),
    lead: true,
    cell: (e) => <PartyName party={e.source} self={isSelf(e.source.workload, self)} />,
  },
  {
    id: "destination",
    header: t("denials.columns.destination"),
    wide: true,
    cell: (e) => <PartyName party={e.destination} self={isSelf(e.destination.workload, self)} />,
  },
  {
    id: "port",
    header: t("denials.columns.port"),
    cell: (e) => `${e.protocol} ${e.port || ""}`,
  },
  {
    id: "direction",
    header: t("denials.columns.direction"),
    cell: (e) => t(`direction.${e.direction}`),
  },
  {
    id: "connections",
    header: t("denials.columns.connections"),
    numeric: true,
    cell: (e) => formatCount(e.connections),
  },
  { id: "reason", header: t("excluded.why"), wide: true, cell: (e) => e.reason },
];
