import { Button, NativeSelect } from "@mantine/core";
import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import { useTranslation } from "react-i18next";
import { ApiError } from "../../../api/error";
import { queries } from "../../../api/queries";
import type { Flow } from "../../../api/wire";
import { formatCount } from "../../../app/format";
import { useTitle } from "../../../app/title";
import { Icon } from "../../../components/Icon";
import { Notice } from "../../../components/Notice";
import { Panel } from "../../../components/Panel";
import { Empty, Failure, Loading } from "../../../components/States";
import { defaultFilter, sinceOf, toggleTerm, withSince } from "../api/filter";
import { mergeFlows } from "../api/rows";
import { type Tail, useTail } from "../hooks/useTail";
import { FacetList } from "./FacetList";
import { FilterBox } from "./FilterBox";
import { FlowDetail } from "./FlowDetail";
import classes from "./FlowsPage.module.css";
import { FlowTable } from "./FlowTable";

const windows = ["15m", "1h", "24h", "7d", ""] as const;

/** Flow records by a filter, newest first, and as they are stored. */
export function FlowsPage() {
  const { t } = useTranslation();
  useTitle(t("flows.title"));
  const { q = defaultFilter } = useSearch({ from: "/shell/flows" });
  const navigate = useNavigate({ from: "/flows" });
  const [live, setLive] = useState(false);
  const [open, setOpen] = useState<Flow>();
  const pages = useInfiniteQuery(queries.flows(q));
  const facets = useQuery(queries.facets(q));
  const tail = useTail(q, live && !pages.isError);
  const read = useMemo(() => pages.data?.pages.flatMap((p) => p.flows) ?? [], [pages.data]);
  const flows = useMemo(() => mergeFlows(tail.rows, read), [tail.rows, read]);
  const go = (filter: string) => {
    if (filter === q) {
      void pages.refetch();
      void facets.refetch();
    } else {
      void navigate({ search: { q: filter } });
    }
  };
  const since = sinceOf(q);
  return (
    <>
      <h1 className={classes.title}>{t("flows.title")}</h1>
      <div className={classes.toolbar}>
        <FilterBox filter={q} error={pages.error} onChange={go} />
        <NativeSelect
          aria-label={t("flows.window")}
          value={since}
          data-testid="flow-window"
          onChange={(e) => go(withSince(q, e.currentTarget.value))}
          data={[
            ...windows.map((w) => ({ value: w, label: t(`flows.since.${w || "all"}`) })),
            ...(windows.some((w) => w === since) ? [] : [{ value: since, label: since }]),
          ]}
        />
        <Button
          variant={live ? "filled" : "default"}
          leftSection={<Icon name={live ? "pause" : "play"} />}
          aria-pressed={live}
          data-testid="flow-live"
          onClick={() => setLive((on) => !on)}
        >
          {t("flows.live")}
        </Button>
      </div>
      <TailNotice tail={tail} />
      <div className={classes.columns}>
        <details className={classes.facets} open={!window.matchMedia("(max-width: 62em)").matches}>
          <summary>{t("flows.facets")}</summary>
          {facets.isError ? (
            !pages.isError && <Failure error={facets.error} retry={() => void facets.refetch()} />
          ) : (
            <FacetList
              facets={facets.data ?? []}
              filter={q}
              onToggle={(term) => go(toggleTerm(q, term))}
            />
          )}
        </details>
        <Panel
          title={
            pages.isSuccess
              ? t(pages.hasNextPage ? "flows.shownFirst" : "flows.shown", {
                  count: flows.length,
                  number: formatCount(flows.length),
                })
              : t("flows.list")
          }
          note={live ? t(`flows.tail.${tail.state}`) : undefined}
          flush
        >
          {pages.isPending ? (
            <Loading rows={10} />
          ) : isWrongFilter(pages.error) ? (
            <Empty icon="search" title={t("flows.wrong")} />
          ) : pages.isError && flows.length === 0 ? (
            <Failure error={pages.error} retry={() => void pages.refetch()} />
          ) : flows.length === 0 ? (
            <Empty icon="search" title={t("flows.none")} testId="flows-none">
              {t("flows.noneText")}
            </Empty>
          ) : (
            <FlowTable flows={flows} onOpen={setOpen} />
          )}
          {pages.hasNextPage && (
            <div className={classes.older}>
              <Button
                variant="default"
                loading={pages.isFetchingNextPage}
                data-testid="flows-older"
                onClick={() => void pages.fetchNextPage()}
              >
                {t("flows.older")}
              </Button>
            </div>
          )}
        </Panel>
      </div>
      <FlowDetail flow={open} onClose={() => setOpen(undefined)} />
    </>
  );
}

const isWrongFilter = (e: unknown): boolean => e instanceof ApiError && e.column !== undefined;

function TailNotice({ tail }: { tail: Tail }) {
  return (
    tail.problem && (
      <div className={classes.notice}>
        <Notice tone={tail.state === "waiting" ? "warn" : "bad"} testId="tail-problem">
          {tail.problem.message}
        </Notice>
      </div>
    )
  );
}
