import { useQuery } from "@tanstack/react-query";
import type { TFunction } from "i18next";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { Endpoint, NodeSlots } from "../../../api/wire";
import { formatCount, parseTime } from "../../../app/format";
import { type Column, DataTable } from "../../../components/DataTable";
import { Panel } from "../../../components/Panel";
import { Empty } from "../../../components/States";
import { useNow } from "../../../components/useNow";
import { When } from "../../../components/When";
import { useWorkloadRef } from "../hooks/useWorkloadRef";
import classes from "./EndpointsPage.module.css";
import { ExplainPanel } from "./ExplainPanel";

/** Where the workload runs, and what each node's kernel holds for it. */
export function EndpointsPage() {
  const { t } = useTranslation();
  const workload = useQuery(queries.workload(useWorkloadRef())).data;
  if (!workload) {
    return null;
  }
  return (
    <div className={classes.stack}>
      <Panel title={t("endpoints.nodes")} note={t("endpoints.nodesNote")} flush>
        {workload.nodes.length === 0 ? (
          <Empty icon="node" title={t("endpoints.noNodes")} />
        ) : (
          <DataTable
            label={t("endpoints.nodes")}
            columns={nodeColumns(t)}
            rows={workload.nodes}
            rowKey={(n) => n.node}
          />
        )}
      </Panel>
      <Panel title={t("endpoints.title")} flush>
        {workload.endpoints.length === 0 ? (
          <Empty icon="node" title={t("endpoints.none")} />
        ) : (
          <DataTable
            label={t("endpoints.title")}
            columns={endpointColumns(t)}
            rows={workload.endpoints}
            rowKey={(e) => `${e.node}/${e.name}`}
          />
        )}
      </Panel>
      <ExplainPanel workload={workload.summary.workload} />
    </div>
  );
}

const revisionText = (t: TFunction, n: number | undefined) =>
  n ? t("slot.revision", { revision: n }) : t("slot.empty");

const nodeColumns = (t: TFunction): Column<NodeSlots>[] => [
  { id: "node", header: t("endpoints.columns.node"), lead: true, cell: (n) => <b>{n.node}</b> },
  {
    id: "connected",
    header: t("endpoints.columns.agent"),
    cell: (n) => t(n.connected ? "nodes.connected" : "nodes.disconnected"),
  },
  {
    id: "endpoints",
    header: t("endpoints.columns.attached"),
    numeric: true,
    cell: (n) => formatCount(n.endpoints),
  },
  { id: "live", header: t("slot.live"), cell: (n) => revisionText(t, n.effective.live) },
  { id: "staged", header: t("slot.staged"), cell: (n) => revisionText(t, n.effective.staged) },
  { id: "confirmed", header: t("slot.columns.confirmed"), cell: (n) => <Confirmed node={n} /> },
  {
    id: "observed",
    header: t("endpoints.columns.observed"),
    cell: (n) => <When time={n.observedSince} />,
  },
  {
    id: "switched",
    header: t("endpoints.columns.switched"),
    cell: (n) => <When time={n.switchedAt} />,
  },
];

function Confirmed({ node }: { node: NodeSlots }) {
  const { t } = useTranslation();
  const now = useNow();
  if (!node.effective.live) {
    return <>{t("slot.notNeeded")}</>;
  }
  if (node.confirmed) {
    return <>{t("endpoints.confirmed")}</>;
  }
  const deadline = parseTime(node.deadline);
  const left = deadline ? Math.max(0, Math.ceil((deadline.getTime() - now) / 1000)) : undefined;
  return (
    <>{left === undefined ? t("slot.unconfirmed") : t("endpoints.deadline", { count: left })}</>
  );
}

const endpointColumns = (t: TFunction): Column<Endpoint>[] => [
  { id: "name", header: t("endpoints.columns.name"), lead: true, cell: (e) => <b>{e.name}</b> },
  { id: "node", header: t("endpoints.columns.node"), cell: (e) => e.node },
  {
    id: "interface",
    header: t("endpoints.columns.interface"),
    cell: (e) =>
      e.interface ? (
        <code className={classes.mono}>{e.interface}</code>
      ) : (
        <span>{t("endpoints.noAgent")}</span>
      ),
  },
  {
    id: "kind",
    header: t("endpoints.columns.kind"),
    cell: (e) => t(e.host ? "endpoints.host" : "endpoints.pod"),
  },
  {
    id: "addresses",
    header: t("endpoints.columns.addresses"),
    wide: true,
    cell: (e) => <code className={classes.mono}>{e.addresses.join(", ")}</code>,
  },
];
