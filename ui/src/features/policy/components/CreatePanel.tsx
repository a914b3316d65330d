import { Button, Textarea } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { ApiError } from "../../../api/error";
import type { WorkloadRef } from "../../../api/wire";
import { formatCount } from "../../../app/format";
import { Icon } from "../../../components/Icon";
import { Notice } from "../../../components/Notice";
import { Panel } from "../../../components/Panel";
import { Failure } from "../../../components/States";
import { DenialTable } from "../../audit/components/DenialTable";
import { useAskSlotChange } from "../../workload/hooks/slotControl";
import { cannotCreate } from "../api/draft";
import type { ReviewControl } from "../hooks/useReview";
import classes from "./CreatePanel.module.css";

/** What the review comes to, and the button that saves it. */
export function CreatePanel({
  workload,
  control,
}: {
  workload: WorkloadRef;
  control: ReviewControl;
}) {
  const { t } = useTranslation();
  const { review, base, draft, change, create } = control;
  const why = cannotCreate(workload, review, base);
  const loaded = control.revisions.data !== undefined;
  return (
    <Panel title={t("create.title")} testId="create">
      <dl className={classes.counts}>
        <Count name={t("create.accepted")} n={review.accepted} />
        <Count name={t("create.rejected")} n={review.rejected} />
        <Count name={t("create.undecided")} n={review.undecided} warn />
      </dl>
      <p className={classes.text}>{t(`create.isolation.${isolationKey(control)}`)}</p>
      {review.undecided > 0 && review.accepted > 0 && (
        <p className={classes.text}>{t("create.undecidedText", { count: review.undecided })}</p>
      )}
      <HistoryCheck control={control} disabled={why === "undecided"} />
      <Textarea
        label={t("create.comment")}
        value={draft.comment}
        maxLength={2000}
        autosize
        minRows={2}
        onChange={(e) => {
          const comment = e.currentTarget.value;
          change((d) => ({ ...d, comment }));
        }}
        data-testid="revision-comment"
      />
      <Button
        fullWidth
        mt="sm"
        loading={create.isPending}
        disabled={!loaded || why !== undefined}
        aria-describedby={why ? "create-why" : undefined}
        onClick={() => create.mutate()}
        data-testid="btn-create-revision"
      >
        {t("create.button")}
      </Button>
      {why && !create.data && (
        <p id="create-why" className={classes.why}>
          {t(`create.why.${why}`, { revision: base?.number })}
        </p>
      )}
      <Outcome control={control} />
    </Panel>
  );
}

function Outcome({ control }: { control: ReviewControl }) {
  const { t } = useTranslation();
  const ask = useAskSlotChange();
  const { create } = control;
  if (create.error) {
    const { code, field } = create.error instanceof ApiError ? create.error : {};
    const flagged = code === "not_ready";
    const title = flagged ? "flagged" : code === "conflict" ? "conflict" : "failed";
    return (
      <div className={classes.outcome}>
        <Failure error={create.error} title={t(`create.${title}`)} />
        {flagged ? (
          <p className={classes.why}>{t("create.flaggedText")}</p>
        ) : (
          field && <p className={classes.why}>{t("create.field", { field })}</p>
        )}
      </div>
    );
  }
  const made = create.data;
  if (!made) {
    return null;
  }
  return (
    <div className={classes.outcome}>
      <Notice tone="good" testId="revision-created">
        {t("create.done", { revision: made.number })}
      </Notice>
      <Button
        fullWidth
        mt="xs"
        variant="default"
        leftSection={<Icon name="audit" />}
        onClick={() => ask("audit", made.number)}
        data-testid="btn-audit-created"
      >
        {t("create.audit", { revision: made.number })}
      </Button>
    </div>
  );
}

const isolationKey = ({ review }: ReviewControl) =>
  review.isolate.ingress && review.isolate.egress
    ? "both"
    : review.isolate.ingress
      ? "ingress"
      : review.isolate.egress
        ? "egress"
        : "none";

function Count({ name, n, warn }: { name: string; n: number; warn?: boolean }) {
  return (
    <div className={classes.count} data-warn={(warn && n > 0) || undefined}>
      <dt>{name}</dt>
      <dd>{formatCount(n)}</dd>
    </div>
  );
}

/** Judges the stored history by the draft: the nearest thing to trying it. */
function HistoryCheck({ control, disabled }: { control: ReviewControl; disabled: boolean }) {
  const { t } = useTranslation();
  const { check } = control;
  return (
    <div className={classes.check}>
      <Button
        variant="default"
        fullWidth
        loading={check.pending}
        disabled={disabled}
        onClick={check.run}
        data-testid="btn-replay"
      >
        {t("create.check")}
      </Button>
      {check.error && <Failure error={check.error} title={t("create.checkFailed")} />}
      {check.data && (
        <div data-testid="replay-result">
          <Notice tone={check.data.denied > 0 ? "warn" : "good"}>
            {t("dialog.judged.history", {
              denied: formatCount(check.data.denied),
              judged: t("denials.connections", { count: check.data.judged }),
            })}
          </Notice>
          {check.data.denials.length > 0 && (
            <div className={classes.denials}>
              <DenialTable denials={check.data.denials} compact />
            </div>
          )}
        </div>
      )}
    </div>
  );
}
