import { Button, NativeSelect } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { ApiError } from "../../../api/error";
import { queries } from "../../../api/queries";
import { formatCount } from "../../../app/format";
import { Icon } from "../../../components/Icon";
import { Notice } from "../../../components/Notice";
import { Empty, Failure, Loading } from "../../../components/States";
import { When } from "../../../components/When";
import { useWorkloadRef } from "../../workload/hooks/useWorkloadRef";
import { acceptAll, sides } from "../api/draft";
import { type ReviewControl, useReview } from "../hooks/useReview";
import { CoveragePanel } from "./CoveragePanel";
import { CreatePanel } from "./CreatePanel";
import { ExcludedPanel } from "./ExcludedPanel";
import classes from "./ReviewPage.module.css";
import { RuleGroup } from "./RuleGroup";

const windows = [0, 1, 24, 168] as const;

/** Rules as sentences with their evidence, to be accepted or rejected one by one. */
export function ReviewPage() {
  const { t } = useTranslation();
  const ref = useWorkloadRef();
  const [hours, setHours] = useState(0);
  const control = useReview(ref, hours || undefined);
  const { recommendation, review } = control;

  return (
    <div className={classes.page}>
      <div className={classes.main}>
        <div className={classes.toolbar}>
          <NativeSelect
            aria-label={t("review.window.label")}
            size="sm"
            value={String(hours)}
            data-testid="review-window"
            onChange={(e) => setHours(Number(e.currentTarget.value))}
            data={windows.map((h) => ({ value: String(h), label: t(`review.window.h${h}`) }))}
          />
          <Button
            variant="default"
            size="sm"
            leftSection={<Icon name="refresh" />}
            loading={recommendation.isFetching}
            onClick={() => void recommendation.refetch()}
            data-testid="btn-refresh"
          >
            {t("review.refresh")}
          </Button>
          <Button
            className={classes.bulk}
            variant="default"
            size="sm"
            leftSection={<Icon name="check" />}
            disabled={review.bulk.length === 0}
            onClick={() => control.change((d) => acceptAll(d, review.bulk))}
            data-testid="btn-accept-unflagged"
          >
            {t("review.acceptUnflagged", { count: review.bulk.length })}
          </Button>
        </div>
        <NewTraffic control={control} />
        <Rules control={control} />
      </div>
      <aside className={classes.side} aria-label={t("review.sideLabel")}>
        {recommendation.data && (
          <CoveragePanel
            coverage={recommendation.data.coverage}
            completeness={recommendation.data.completeness}
            workload={ref}
          />
        )}
        <CreatePanel workload={ref} control={control} />
      </aside>
      {recommendation.data && recommendation.data.excluded.length > 0 && (
        <div className={classes.excluded}>
          <ExcludedPanel edges={recommendation.data.excluded} workload={ref} />
        </div>
      )}
    </div>
  );
}

function Rules({ control }: { control: ReviewControl }) {
  const { t } = useTranslation();
  const { recommendation, revisions, review } = control;
  if (recommendation.isPending || revisions.isPending) {
    return <Loading rows={8} />;
  }
  if (revisions.isError && !revisions.data) {
    return <Failure error={revisions.error} retry={() => void revisions.refetch()} />;
  }
  const refused =
    recommendation.error instanceof ApiError && recommendation.error.status === 409
      ? recommendation.error.message
      : undefined;
  const none = refused ?? recommendation.data?.noPolicy;
  return (
    <>
      {recommendation.error && !refused && (
        <Failure error={recommendation.error} retry={() => void recommendation.refetch()} />
      )}
      {recommendation.data?.notes?.map((note) => (
        <Notice key={note} tone="info">
          {note}
        </Notice>
      ))}
      {none && review.rules.length > 0 && <Notice tone="info">{none}</Notice>}
      {none && review.rules.length === 0 && (
        <div className={classes.card}>
          <Empty title={t("review.nothing")} testId="no-policy">
            {none}
          </Empty>
        </div>
      )}
      {(!none || recommendation.data || review.rules.length > 0) &&
        sides.map((side) => <RuleGroup key={side} side={side} control={control} />)}
    </>
  );
}

/** The rules stay still while they are reviewed; this says when they are behind. */
function NewTraffic({ control }: { control: ReviewControl }) {
  const { t } = useTranslation();
  const ref = useWorkloadRef();
  const edges = useQuery(queries.workload(ref)).data?.summary.edges;
  const { recommendation } = control;
  const at = recommendation.dataUpdatedAt;
  const [seen, setSeen] = useState<{ at: number; edges: number }>();
  if (edges !== undefined && at > 0 && seen?.at !== at) {
    setSeen({ at, edges });
  }
  if (!seen || edges === undefined || edges <= seen.edges) {
    return null;
  }
  const count = edges - seen.edges;
  return (
    <Notice
      tone="info"
      testId="new-traffic"
      action={
        <Button size="compact-sm" variant="default" onClick={() => void recommendation.refetch()}>
          {t("review.refresh")}
        </Button>
      }
    >
      {t("review.newEdges", { count, n: formatCount(count) })}{" "}
      <When time={new Date(at).toISOString()} />
    </Notice>
  );
}
