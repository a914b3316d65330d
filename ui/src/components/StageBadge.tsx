import { useTranslation } from "react-i18next";
import type { Stage, WorkloadSummary } from "../api/wire";
import { Icon } from "./Icon";
import classes from "./StageBadge.module.css";

export function StageBadge({
  direction,
  stage,
}: {
  direction: "ingress" | "egress";
  stage: Stage;
}) {
  const { t } = useTranslation();
  return (
    <span
      className={classes.badge}
      data-testid="stage-badge"
      data-direction={direction}
      data-stage={stage}
      title={t(`stage.${stage}.${direction}`)}
    >
      <Icon name={stage} size={13} />
      <span className={classes.direction}>{t(`direction.${direction}`)}</span>
      <strong>{t(`stage.${stage}.name`)}</strong>
    </span>
  );
}

export function StageBadges({ summary }: { summary: WorkloadSummary }) {
  return (
    <span className={classes.pair}>
      <StageBadge direction="ingress" stage={summary.ingressStage} />
      <StageBadge direction="egress" stage={summary.egressStage} />
    </span>
  );
}
