import { useTranslation } from "react-i18next";
import type { Stage } from "../../../api/wire";
import { Icon } from "../../../components/Icon";
import classes from "./StageFilter.module.css";

const stages: Stage[] = ["observe", "audit", "enforce"];

/** How many workloads are in each stage; a press shows only those. */
export function StageFilter({
  counts,
  value,
  onChange,
}: {
  counts: Record<Stage, number>;
  value: Stage | undefined;
  onChange: (stage: Stage | undefined) => void;
}) {
  const { t } = useTranslation();
  return (
    <fieldset className={classes.filter} aria-label={t("workloads.stage")}>
      {stages.map((stage) => (
        <button
          key={stage}
          type="button"
          className={classes.choice}
          data-stage={stage}
          data-testid={`filter-${stage}`}
          aria-pressed={value === stage}
          onClick={() => onChange(value === stage ? undefined : stage)}
        >
          <Icon name={stage} size={14} />
          {t(`stage.${stage}.name`)}
          <strong>{counts[stage]}</strong>
        </button>
      ))}
    </fieldset>
  );
}
