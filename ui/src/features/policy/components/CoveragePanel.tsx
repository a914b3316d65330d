import { useTranslation } from "react-i18next";
import type { Coverage } from "../../../api/wire";
import { formatCount, formatDuration, formatPercent } from "../../../app/format";
import { Icon } from "../../../components/Icon";
import { Panel } from "../../../components/Panel";
import classes from "./CoveragePanel.module.css";

/** How much of the window was seen, and what is missing before enforcing. */
export function CoveragePanel({ coverage }: { coverage: Coverage }) {
  const { t } = useTranslation();
  const share = coverage.seconds > 0 ? Math.min(1, coverage.coveredSeconds / coverage.seconds) : 0;
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
      <progress
        className={classes.bar}
        max={1}
        value={share}
        aria-label={t("coverage.share", { share: formatPercent(share) })}
      />
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
      </dl>
    </Panel>
  );
}
