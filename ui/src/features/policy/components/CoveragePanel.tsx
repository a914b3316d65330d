import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { Completeness, Coverage, WorkloadRef } from "../../../api/wire";
import { formatCount, formatDuration, formatPercent, parseTime } from "../../../app/format";
import { Icon } from "../../../components/Icon";
import { Panel } from "../../../components/Panel";
import { useNow } from "../../../components/useNow";
import { warmUpShare } from "../../workloads/api/rows";
import classes from "./CoveragePanel.module.css";

/** How much of the window was seen, and what is missing before enforcing. */
export function CoveragePanel({
  coverage,
  completeness,
  workload,
}: {
  coverage: Coverage;
  completeness: Completeness;
  workload: WorkloadRef;
}) {
  const { t } = useTranslation();
  return (
    <Panel title={t("coverage.title")} testId="coverage">
      <p className={classes.ready} data-ready={coverage.ready} data-testid="readiness">
        <Icon name={coverage.ready ? "check" : "clock"} />
        {t(coverage.ready ? "coverage.ready" : "coverage.notReady")}
      </p>
      {coverage.missing.length > 0 && (
        <ul className={classes.missing}>
          {coverage.missing.map((m) => (
            <li key={m}>{m}</li>
          ))}
        </ul>
      )}
      <p className={classes.words}>{coverage.words}</p>
      <WarmUp workload={workload} />
      <dl className={classes.facts}>
        <dt>{t("coverage.covered")}</dt>
        <dd>
          {t("coverage.coveredOf", {
            covered: formatDuration(coverage.coveredSeconds),
            window: formatDuration(coverage.seconds),
          })}
        </dd>
        <dt>{t("coverage.lost")}</dt>
        <dd data-bad={coverage.lostRecords > 0 || undefined}>
          {formatCount(coverage.lostRecords)}
        </dd>
        <dt>{t("coverage.week")}</dt>
        <dd>{t("coverage.weekOf", { hours: completeness.weekHours })}</dd>
        <dt>{t("coverage.replicas")}</dt>
        <dd>
          {t("coverage.replicasOf", {
            seen: completeness.seenReplicas,
            watched: completeness.watchedReplicas,
            all: completeness.replicas,
          })}
        </dd>
        {completeness.estimate && (
          <>
            <dt>{t("coverage.unseen")}</dt>
            <dd data-testid="unseen">
              {t("coverage.unseenBetween", {
                share: formatPercent(completeness.estimate.expected),
                low: formatPercent(completeness.estimate.low),
                high: formatPercent(completeness.estimate.high),
              })}
            </dd>
          </>
        )}
        {completeness.split && (
          <>
            <dt>{t("coverage.split")}</dt>
            <dd>{formatPercent(completeness.split.share)}</dd>
          </>
        )}
      </dl>
    </Panel>
  );
}

/** How far the workload's endpoints are through the time they must be watched. */
function WarmUp({ workload }: { workload: WorkloadRef }) {
  const { t } = useTranslation();
  const now = useNow();
  const since = useQuery(queries.workload(workload)).data?.summary.observedSince;
  const seconds = useQuery(queries.status()).data?.warmUpSeconds;
  const share = warmUpShare(parseTime(since)?.getTime(), seconds, now);
  if (share === undefined || !seconds) {
    return null;
  }
  return (
    <div className={classes.warmUp}>
      <div className={classes.warmUpText}>
        <span id="warm-up">{t("coverage.warmUp")}</span>
        <span>
          {share < 1
            ? t("coverage.coveredOf", {
                covered: formatDuration(share * seconds),
                window: formatDuration(seconds),
              })
            : t("coverage.warmUpDone")}
        </span>
      </div>
      <progress className={classes.bar} max={1} value={share} aria-labelledby="warm-up" />
    </div>
  );
}
