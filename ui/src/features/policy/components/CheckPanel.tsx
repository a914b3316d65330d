import { useQuery } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { PolicyCheck, RecommendedRule, Slot, WorkloadRef } from "../../../api/wire";
import { Icon } from "../../../components/Icon";
import { Panel } from "../../../components/Panel";
import { Failure, Loading } from "../../../components/States";
import { TextLink } from "../../../components/TextLink";
import classes from "./CheckPanel.module.css";
import { EvidenceView } from "./EvidenceView";
import { ExcludedPanel } from "./ExcludedPanel";

const isNew = (r: RecommendedRule) => r.proposed === "accept" || r.proposed === "review";

/** What became of a revision in a slot: marks at its rules, and what it does not admit. */
export function CheckPanel({ workload, slot }: { workload: WorkloadRef; slot: Slot }) {
  const { t } = useTranslation();
  const check = useQuery(queries.check(workload, slot));
  if (check.isPending) {
    return <Loading rows={4} />;
  }
  return check.data ? (
    <Checked workload={workload} check={check.data} />
  ) : (
    <Panel title={t("check.failed")}>
      <Failure error={check.error} retry={() => void check.refetch()} />
    </Panel>
  );
}

function Checked({ workload, check }: { workload: WorkloadRef; check: PolicyCheck }) {
  const { t } = useTranslation();
  const fresh = check.rules.filter(isNew);
  const old = check.rules.filter((r) => !isNew(r));
  return (
    <>
      <Panel
        title={t("check.standing", { revision: check.revision })}
        note={check.words}
        testId="check"
      >
        <RuleList label={t("check.standing", { revision: check.revision })} rules={old} />
      </Panel>
      <Panel
        title={t("check.changed", { revision: check.revision })}
        note={t("check.changedNote", { count: fresh.length })}
        actions={
          fresh.length > 0 && (
            <TextLink to="/workloads/$namespace/$kind/$name" params={workload}>
              {t("check.review")}
            </TextLink>
          )
        }
        testId="check-new"
      >
        {fresh.length > 0 && (
          <RuleList label={t("check.changed", { revision: check.revision })} rules={fresh} />
        )}
      </Panel>
      {check.excluded.length > 0 && <ExcludedPanel edges={check.excluded} workload={workload} />}
    </>
  );
}

function RuleList({ label, rules }: { label: string; rules: RecommendedRule[] }) {
  return (
    <ul className={classes.rules} aria-label={label}>
      {rules.map((r) => (
        <CheckedRule key={`${r.direction}${r.rule.id}`} rule={r} />
      ))}
    </ul>
  );
}

function CheckedRule({ rule: r }: { rule: RecommendedRule }) {
  const { t } = useTranslation();
  return (
    <li
      className={classes.rule}
      data-proposed={r.proposed}
      data-flagged={r.flags.length > 0 || undefined}
      data-testid={`check-${r.rule.id}`}
    >
      <div className={classes.what}>
        <p className={classes.sentence}>{r.sentence}</p>
        <p className={classes.proposed}>
          {t(`direction.${r.direction}`)} · {t(`check.proposed.${r.proposed}`)}
        </p>
        {r.flags.map((f) => (
          <p key={f.code} className={classes.mark} data-testid={`mark-${f.code}`}>
            <Icon name="warning" size={14} />
            <span>{f.reason}</span>
          </p>
        ))}
        {r.alsoAdmits.length > 0 && (
          <p className={classes.admits}>
            <strong>{t("rule.alsoAdmits")}</strong> {r.alsoAdmits.join("; ")}
          </p>
        )}
      </div>
      <EvidenceView evidence={r.evidence} implied={r.implied === true} />
    </li>
  );
}
