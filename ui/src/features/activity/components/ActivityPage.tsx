import { Button } from "@mantine/core";
import { useInfiniteQuery } from "@tanstack/react-query";
import { useSearch } from "@tanstack/react-router";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import { type Activity, refKey } from "../../../api/wire";
import { useTitle } from "../../../app/title";
import { Panel } from "../../../components/Panel";
import { Empty, Failure, Loading } from "../../../components/States";
import { TextLink, WorkloadLink } from "../../../components/TextLink";
import { When } from "../../../components/When";
import classes from "./ActivityPage.module.css";

/** Who did what when, newest first. */
export function ActivityPage() {
  const { t } = useTranslation();
  const { workload } = useSearch({ from: "/shell/activity" });
  const log = useInfiniteQuery(queries.activity(workload));
  const entries = log.data?.pages.flat() ?? [];
  useTitle(t("activity.title"));
  return (
    <>
      <h1 className={classes.title}>{t("activity.title")}</h1>
      <Panel
        title={workload ? t("activity.of", { workload }) : t("activity.all")}
        actions={
          workload && (
            <TextLink to="/activity" size="sm">
              {t("activity.showAll")}
            </TextLink>
          )
        }
        flush
      >
        {log.isPending ? (
          <Loading rows={6} />
        ) : log.isError && entries.length === 0 ? (
          <Failure error={log.error} retry={() => void log.refetch()} />
        ) : entries.length === 0 ? (
          <Empty icon="clock" title={t("activity.none")} />
        ) : (
          <ol className={classes.list}>
            {entries.map((a) => (
              <Entry key={a.id} entry={a} />
            ))}
          </ol>
        )}
      </Panel>
      {log.hasNextPage && (
        <Button
          variant="default"
          mt="md"
          loading={log.isFetchingNextPage}
          onClick={() => void log.fetchNextPage()}
        >
          {t("activity.older")}
        </Button>
      )}
    </>
  );
}

function Entry({ entry: a }: { entry: Activity }) {
  return (
    <li className={classes.entry} data-testid="activity-row">
      <span className={classes.when}>
        <When time={a.time} />
      </span>
      <span className={classes.what}>
        <span>{a.text}</span>
        <span className={classes.meta}>
          {a.actor}
          {a.workload && (
            <>
              {" · "}
              <WorkloadLink workload={a.workload}>{refKey(a.workload)}</WorkloadLink>
            </>
          )}
        </span>
      </span>
    </li>
  );
}
