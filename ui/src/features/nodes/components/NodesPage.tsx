import { useQuery } from "@tanstack/react-query";
import type { TFunction } from "i18next";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { Node, Status } from "../../../api/wire";
import { formatCount, formatDuration, formatPercent } from "../../../app/format";
import { useTitle } from "../../../app/title";
import { type Column, DataTable } from "../../../components/DataTable";
import { Panel } from "../../../components/Panel";
import { Empty, Failure, Loading } from "../../../components/States";
import { When } from "../../../components/When";
import classes from "./NodesPage.module.css";

/** The nodes, the store, and what was observed so far. */
export function NodesPage() {
  const { t } = useTranslation();
  const status = useQuery(queries.status());
  useTitle(t("nodes.title"));
  return (
    <>
      <h1 className={classes.title}>{t("nodes.title")}</h1>
      {status.isPending ? (
        <Loading rows={6} />
      ) : !status.data ? (
        <Failure error={status.error} retry={() => void status.refetch()} />
      ) : (
        <div className={classes.stack}>
          <Panel title={t("nodes.agents")} flush>
            {status.data.nodes.length === 0 ? (
              <Empty icon="node" title={t("nodes.none")}>
                {t("nodes.noneText")}
              </Empty>
            ) : (
              <DataTable
                label={t("nodes.agents")}
                columns={columnsOf(t)}
                rows={status.data.nodes}
                rowKey={(n) => n.name}
                rowTestId={(n) => `node-row-${n.name}`}
              />
            )}
          </Panel>
          <Learning status={status.data} />
        </div>
      )}
    </>
  );
}

const columnsOf = (t: TFunction): Column<Node>[] => [
  { id: "name", header: t("nodes.columns.name"), lead: true, cell: (n) => <b>{n.name}</b> },
  {
    id: "state",
    header: t("nodes.columns.state"),
    lead: true,
    cell: (n) => (
      <span className={classes.state} data-ok={n.connected && !n.panicked && !n.error}>
        {t(n.panicked ? "nodes.panicked" : n.connected ? "nodes.connected" : "nodes.disconnected")}
        {n.error && <span className={classes.error}>{n.error}</span>}
      </span>
    ),
  },
  {
    id: "endpoints",
    header: t("nodes.columns.endpoints"),
    numeric: true,
    cell: (n) => formatCount(n.endpoints),
  },
  {
    id: "generation",
    header: t("nodes.columns.generation"),
    numeric: true,
    cell: (n) => n.generation,
  },
  { id: "version", header: t("nodes.columns.version"), cell: (n) => n.version || "–" },
  { id: "report", header: t("nodes.columns.report"), cell: (n) => <When time={n.lastReport} /> },
];

function Learning({ status: s }: { status: Status }) {
  const { t } = useTranslation();
  const { learning, store } = s;
  return (
    <Panel title={t("nodes.server")}>
      <dl className={classes.facts}>
        <div>
          <dt>{t("nodes.facts.store")}</dt>
          <dd>
            {t(store.embedded ? "nodes.facts.embedded" : "nodes.facts.external")},{" "}
            {t(store.healthy ? "nodes.facts.healthy" : "nodes.facts.unhealthy")}
            {store.detail && ` (${store.detail})`}
          </dd>
        </div>
        <div>
          <dt>{t("nodes.facts.since")}</dt>
          <dd>
            <When time={learning.since} />
          </dd>
        </div>
        <div>
          <dt>{t("nodes.facts.coverage")}</dt>
          <dd>{formatPercent(learning.coverage)}</dd>
        </div>
        <div>
          <dt>{t("nodes.facts.edges")}</dt>
          <dd>{formatCount(learning.edges)}</dd>
        </div>
        <div>
          <dt>{t("nodes.facts.newestEdge")}</dt>
          <dd>
            <When time={learning.newestEdgeAt} />
          </dd>
        </div>
        <div>
          <dt>{t("nodes.facts.connections")}</dt>
          <dd>{formatCount(learning.connections)}</dd>
        </div>
        <div>
          <dt>{t("nodes.facts.lost")}</dt>
          <dd>{formatCount(learning.lostRecords)}</dd>
        </div>
        <div>
          <dt>{t("nodes.facts.warmUp")}</dt>
          <dd>{s.warmUpSeconds ? formatDuration(s.warmUpSeconds) : "–"}</dd>
        </div>
        <div>
          <dt>{t("nodes.facts.confirm")}</dt>
          <dd>{s.confirmSeconds ? formatDuration(s.confirmSeconds) : "–"}</dd>
        </div>
        <div>
          <dt>{t("nodes.facts.version")}</dt>
          <dd>
            {s.version}, {t("nodes.facts.started")} <When time={s.startedAt} />
          </dd>
        </div>
      </dl>
    </Panel>
  );
}
