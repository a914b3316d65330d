import { Button } from "@mantine/core";
import type { TFunction } from "i18next";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { ApiError } from "../../../api/error";
import { formatMillis } from "../../../app/format";
import { Notice } from "../../../components/Notice";
import { Failure } from "../../../components/States";
import type { ChangeView, SlotChangeControl } from "../hooks/useSlotChange";
import classes from "./ChangeProgress.module.css";

/** What became of the last click: its three steps, or why it was refused. */
export function ChangeProgress({ change }: { change: SlotChangeControl }) {
  const { t } = useTranslation();
  if (change.error && change.asked) {
    const conflict = change.error instanceof ApiError && change.error.status === 409;
    return (
      <div data-testid="change-error">
        <Failure
          error={change.error}
          title={t(conflict ? "change.refused" : "change.failed", {
            action: t(`action.${change.asked.action}.button`),
          })}
        />
      </div>
    );
  }
  if (!change.view) {
    return null;
  }
  const { progress } = change.view;
  const reverted = progress.reverted.length > 0;
  const done = progress.effective && progress.confirmed !== false;
  return (
    <Notice
      tone={reverted ? "bad" : done ? "good" : "info"}
      testId="change"
      title={t(titleKey(change.view), {
        revision: progress.revision ?? change.view.request.revision,
        from: change.view.request.revision,
      })}
      action={
        <Button size="compact-xs" variant="subtle" color="gray" onClick={change.dismiss}>
          {t("change.dismiss")}
        </Button>
      }
    >
      <Steps view={change.view} />
      {reverted && <p className={classes.text}>{t("change.reverted", names(progress.reverted))}</p>}
      {progress.waiting.length > 0 && (
        <p className={classes.text}>{t("change.waiting", names(progress.waiting))}</p>
      )}
      {progress.detail && <p className={classes.text}>{progress.detail}</p>}
      {progress.disconnected.length > 0 && (
        <p className={classes.text}>{t("change.disconnected", names(progress.disconnected))}</p>
      )}
    </Notice>
  );
}

function titleKey({ progress, request }: ChangeView) {
  if (progress.reverted.length > 0) {
    return "change.titleReverted" as const;
  }
  return progress.effective
    ? (`change.title.${request.action}` as const)
    : (`change.titlePending.${request.action}` as const);
}

const names = (nodes: string[]) => ({ nodes: nodes.join(", "), count: nodes.length });

function Steps({ view }: { view: ChangeView }) {
  const { t } = useTranslation();
  const { progress } = view;
  return (
    <ol className={classes.steps}>
      <Step done testId="step-requested">
        {t("change.requested")}
      </Step>
      <Step done={progress.effective} testId="step-effective">
        {effectiveText(t, view)}
      </Step>
      {progress.confirmed !== undefined && (
        <Step done={progress.confirmed} testId="step-confirmed">
          {progress.confirmed
            ? t("change.confirmed", { time: formatMillis(view.confirmMillis ?? view.answerMillis) })
            : t("change.confirming")}
        </Step>
      )}
    </ol>
  );
}

function effectiveText(t: TFunction, { progress }: ChangeView): string {
  if (!progress.effective) {
    return t("change.applying");
  }
  return progress.switchMillis === undefined
    ? t("change.effective")
    : t("change.effectiveAfter", { time: formatMillis(progress.switchMillis) });
}

function Step({ done, testId, children }: { done: boolean; testId: string; children: ReactNode }) {
  return (
    <li className={classes.step} data-done={done || undefined} data-testid={testId}>
      {children}
    </li>
  );
}
