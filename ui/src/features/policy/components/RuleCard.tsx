import { ActionIcon } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Rule } from "../../../api/wire";
import { Icon } from "../../../components/Icon";
import { ruleText } from "../api/describe";
import { type Decision, type DraftRule, isFlagged, remark, warnings } from "../api/draft";
import { EvidenceView } from "./EvidenceView";
import classes from "./RuleCard.module.css";
import { RuleEditor } from "./RuleEditor";

/** One rule: what it allows, why it is believed, and the decision about it. */
export function RuleCard({
  rule,
  base,
  onDecide,
  onEdit,
}: {
  rule: DraftRule;
  /** The revision that the review starts from. */
  base: number | undefined;
  onDecide: (d: Decision) => void;
  onEdit: (r: Rule | undefined) => void;
}) {
  const { t } = useTranslation();
  const [editing, setEditing] = useState(false);
  const { recommended } = rule;
  const flags = warnings(recommended);
  const sentence =
    rule.edited || !rule.sentence ? ruleText(t, rule.rule, rule.side) : rule.sentence;
  return (
    <li
      className={classes.card}
      data-testid={`rule-${rule.id}`}
      data-direction={rule.side}
      data-decision={rule.decision ?? "none"}
      data-flagged={isFlagged(rule) || undefined}
    >
      <div className={classes.what}>
        <p className={classes.sentence}>{sentence}</p>
        <Marks rule={rule} base={base} />
        {flags.length > 0 && (
          <ul className={classes.flags} aria-label={t("rule.flags")}>
            {flags.map((f) => (
              <li key={f.code} data-testid={`flag-${f.code}`}>
                <Icon name="warning" size={14} />
                <span>{f.reason}</span>
              </li>
            ))}
          </ul>
        )}
        {recommended && !rule.edited && recommended.alsoAdmits.length > 0 && (
          <p className={classes.admits}>
            <strong>{t("rule.alsoAdmits")}</strong> {recommended.alsoAdmits.join("; ")}
          </p>
        )}
        {recommended && !rule.edited && recommended.mayAdmit.length > 0 && (
          <p className={classes.admits}>
            <strong>{t("rule.mayAdmit")}</strong> {recommended.mayAdmit.join("; ")}
          </p>
        )}
        <div className={classes.buttons}>
          <Decide rule={rule} sentence={sentence} onDecide={onDecide} />
          <ActionIcon
            variant="subtle"
            color="gray"
            size="lg"
            aria-label={t("rule.editLabel", { rule: sentence })}
            title={t("rule.edit")}
            onClick={() => setEditing(true)}
            data-testid={`rule-${rule.id}-edit`}
          >
            <Icon name="edit" />
          </ActionIcon>
        </div>
      </div>
      <EvidenceView
        evidence={recommended?.evidence ?? []}
        implied={recommended?.implied === true}
      />
      {editing && (
        <RuleEditor
          rule={rule.rule}
          side={rule.side}
          edited={rule.edited}
          onClose={() => setEditing(false)}
          onSave={(r) => {
            onEdit(r);
            setEditing(false);
          }}
        />
      )}
    </li>
  );
}

function Marks({ rule, base }: { rule: DraftRule; base: number | undefined }) {
  const { t } = useTranslation();
  const marks = [
    rule.edited && t("rule.edited"),
    rule.inRevision && !rule.edited && t("rule.inRevision", { revision: base }),
    !rule.recommended && t("rule.notLearned"),
    rule.recommended?.implied && (remark(rule.recommended) ?? t("rule.implied")),
  ].filter(Boolean);
  return marks.length === 0 ? null : <p className={classes.marks}>{marks.join(" · ")}</p>;
}

function Decide({
  rule,
  sentence,
  onDecide,
}: {
  rule: DraftRule;
  sentence: string;
  onDecide: (d: Decision) => void;
}) {
  const { t } = useTranslation();
  const button = (decision: Decision) => {
    const chosen = rule.decision === decision;
    const text = t(chosen ? `rule.${decision}ed` : `rule.${decision}`);
    return (
      <button
        type="button"
        className={classes.decision}
        data-decision={decision}
        aria-pressed={chosen}
        aria-label={`${text}: ${sentence}`}
        onClick={() => onDecide(decision)}
        data-testid={`rule-${rule.id}-${decision}`}
      >
        <Icon name={decision === "accept" ? "check" : "cross"} size={15} />
        {text}
      </button>
    );
  };
  return (
    <fieldset className={classes.decisions} aria-label={t("rule.decision")}>
      {button("accept")}
      {button("reject")}
    </fieldset>
  );
}
