import { Switch } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { Notice } from "../../../components/Notice";
import { Panel } from "../../../components/Panel";
import { useWorkloadRef } from "../../workload/hooks/useWorkloadRef";
import { decide, edit, type Side } from "../api/draft";
import type { ReviewControl } from "../hooks/useReview";
import { RuleCard } from "./RuleCard";
import classes from "./RuleGroup.module.css";

/** The rules of one direction, and whether everything else is denied. */
export function RuleGroup({ side, control }: { side: Side; control: ReviewControl }) {
  const { t } = useTranslation();
  const { name } = useWorkloadRef();
  const { review, change } = control;
  const rules = review.rules.filter((r) => r.side === side);
  const isolated = review.isolate[side];
  return (
    <Panel
      title={t(`review.group.${side}`, { name })}
      note={t(isolated ? "review.isolated" : "review.open", {
        direction: t(`direction.${side}`),
      })}
      actions={
        <Switch
          label={t("review.isolate")}
          aria-label={t("review.isolateLabel", { direction: t(`direction.${side}`) })}
          checked={isolated}
          data-testid={`isolate-${side}`}
          onChange={(e) => {
            const on = e.currentTarget.checked;
            change((d) => ({ ...d, isolate: { ...d.isolate, [side]: on } }));
          }}
        />
      }
      testId={`rules-${side}`}
    >
      {!review.observed[side] && control.recommendation.data && (
        <div className={classes.notice}>
          <Notice tone={isolated ? "warn" : "info"} testId={`unobserved-${side}`}>
            {t(isolated ? "review.unobservedIsolated" : "review.unobserved", {
              direction: t(`direction.${side}`),
            })}
          </Notice>
        </div>
      )}
      {rules.length === 0 ? (
        <p className={classes.none}>{t("review.noRules")}</p>
      ) : (
        <ul className={classes.rules} aria-label={t(`review.group.${side}`, { name })}>
          {rules.map((rule) => (
            <RuleCard
              key={rule.key}
              rule={rule}
              base={control.base?.number}
              onDecide={(d) => change((draft) => decide(draft, rule.key, d))}
              onEdit={(r) => change((draft) => edit(draft, rule.key, r))}
            />
          ))}
        </ul>
      )}
    </Panel>
  );
}
