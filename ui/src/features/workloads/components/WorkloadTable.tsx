import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import type { TFunction } from "i18next";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { WorkloadRef } from "../../../api/wire";
import { formatCount, formatDuration, formatPercent } from "../../../app/format";
import { type Column, DataTable, type Sort } from "../../../components/DataTable";
import { SlotRevision } from "../../../components/SlotRevision";
import { StageBadges } from "../../../components/StageBadge";
import { WorkloadLink } from "../../../components/TextLink";
import { useNow } from "../../../components/useNow";
import { When } from "../../../components/When";
import { slotView } from "../../workload/api/slots";
import { sortRows, type WorkloadRow, warmUpShare } from "../api/rows";
import classes from "./WorkloadTable.module.css";

const paramsOf = (w: WorkloadRef) => ({ namespace: w.namespace, kind: w.kind, name: w.name });

export function WorkloadTable({
  rows,
  sort,
  onSort,
}: {
  rows: WorkloadRow[];
  sort: Sort;
  onSort: (sort: Sort) => void;
}) {
  const { t } = useTranslation();
  const navigate = useNavigate();
  // Only a server that knows since when endpoints are observed gets the column.
  const withObserved = rows.some((r) => r.observedSince !== undefined);
  const columns = columnsOf(t).filter((c) => c.id !== "observed" || withObserved);
  return (
    <DataTable
      label={t("workloads.title")}
      columns={columns}
      rows={sortRows(rows, sort.column, sort.descending)}
      rowKey={(r) => r.key}
      rowTestId={(r) => {
        const w = r.summary.workload;
        return `workload-row-${w.namespace}-${w.kind}-${w.name}`;
      }}
      onRow={(r) =>
        void navigate({
          to: "/workloads/$namespace/$kind/$name",
          params: paramsOf(r.summary.workload),
        })
      }
      sort={sort}
      onSort={onSort}
    />
  );
}

const columnsOf = (t: TFunction): Column<WorkloadRow>[] => [
  {
    id: "name",
    header: t("workloads.columns.name"),
    lead: true,
    sortable: true,
    cell: (r) => <NameCell row={r} />,
  },
  {
    id: "stage",
    header: t("workloads.columns.stage"),
    lead: true,
    sortable: true,
    cell: (r) => <StageBadges summary={r.summary} />,
  },
  {
    id: "revisions",
    header: t("workloads.columns.revisions"),
    absent: hasNoRevision,
    wide: true,
    cell: (r) => <SlotsCell row={r} />,
  },
  {
    id: "edges",
    header: t("workloads.columns.edges"),
    numeric: true,
    sortable: true,
    cell: (r) => formatCount(r.summary.edges),
  },
  {
    id: "connections",
    header: t("workloads.columns.connections"),
    numeric: true,
    sortable: true,
    cell: (r) => formatCount(r.summary.connections),
  },
  {
    id: "wouldDeny",
    header: t("workloads.columns.wouldDeny"),
    absent: (r) => !r.summary.wouldDeny && !r.summary.effective.staged,
    numeric: true,
    sortable: true,
    cell: (r) => (
      <Denials n={r.summary.wouldDeny} tone="audit" judged={Boolean(r.summary.effective.staged)} />
    ),
  },
  {
    id: "denied",
    header: t("workloads.columns.denied"),
    absent: (r) => !r.summary.denied && !r.summary.effective.live,
    numeric: true,
    sortable: true,
    cell: (r) => (
      <Denials n={r.summary.denied} tone="deny" judged={Boolean(r.summary.effective.live)} />
    ),
  },
  {
    id: "observed",
    header: t("workloads.columns.observed"),
    sortable: true,
    cell: (r) => <ObservedCell row={r} />,
  },
  {
    id: "lastSeen",
    header: t("workloads.columns.lastSeen"),
    sortable: true,
    cell: (r) => <When time={r.summary.lastSeen} />,
  },
];

function NameCell({ row }: { row: WorkloadRow }) {
  const { t } = useTranslation();
  const w = row.summary.workload;
  return (
    <span className={classes.name}>
      <WorkloadLink workload={w} strong>
        {w.name}
      </WorkloadLink>
      <span className={classes.detail}>
        {w.namespace} · {w.kind} · {t("workloads.endpoints", { count: row.summary.endpoints })}
      </span>
    </span>
  );
}

const hasNoRevision = (row: WorkloadRow): boolean =>
  [slotView(row.summary, "live"), slotView(row.summary, "staged")].every(
    (v) => v.requested === undefined && v.effective === undefined,
  );

function SlotsCell({ row }: { row: WorkloadRow }) {
  const live = slotView(row.summary, "live");
  const staged = slotView(row.summary, "staged");
  return hasNoRevision(row) ? (
    <span className={classes.dash}>–</span>
  ) : (
    <>
      <SlotRevision view={live} />
      <SlotRevision view={staged} />
    </>
  );
}

/** A count of denials; a dash where no revision judged anything. */
function Denials({ n, tone, judged }: { n: number; tone: "audit" | "deny"; judged: boolean }) {
  if (n === 0) {
    return judged ? "0" : <span className={classes.dash}>–</span>;
  }
  return (
    <strong className={classes.denials} data-tone={tone}>
      {formatCount(n)}
    </strong>
  );
}

function ObservedCell({ row }: { row: WorkloadRow }) {
  const { t } = useTranslation();
  const now = useNow();
  const warmUpSeconds = useQuery(queries.status()).data?.warmUpSeconds;
  const share = warmUpShare(row.observedSince, warmUpSeconds, now);
  if (row.observedSince === undefined || share === undefined) {
    return <span className={classes.dash}>{t("workloads.unobserved")}</span>;
  }
  return share < 1
    ? t("workloads.warmingUp", { share: formatPercent(Math.floor(share * 100) / 100) })
    : formatDuration((now - row.observedSince) / 1000);
}
