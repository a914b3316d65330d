import { Button, NativeSelect, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import { useTitle } from "../../../app/title";
import { Icon } from "../../../components/Icon";
import { Empty, Failure, Loading } from "../../../components/States";
import { countByStage, filterRows, namespacesOf, rowOf } from "../api/rows";
import type { WorkloadSearch } from "../api/search";
import { StageFilter } from "./StageFilter";
import classes from "./WorkloadsPage.module.css";
import { WorkloadTable } from "./WorkloadTable";

export function WorkloadsPage() {
  const { t } = useTranslation();
  useTitle(t("workloads.title"));
  const search = useSearch({ from: "/shell/workloads" });
  const navigate = useNavigate({ from: "/workloads" });
  const list = useQuery(queries.workloads());
  const all = useMemo(() => (list.data ?? []).map(rowOf), [list.data]);
  const shown = filterRows(all, search);
  const narrow = (part: Partial<WorkloadSearch>) =>
    void navigate({ search: (s) => ({ ...s, ...part }), replace: true });
  const filtered = Boolean(search.q || search.ns || search.stage);

  return (
    <>
      <h1 className={classes.title}>{t("workloads.title")}</h1>
      <div className={classes.filters}>
        <TextInput
          className={classes.search}
          aria-label={t("workloads.search")}
          placeholder={t("workloads.search")}
          leftSection={<Icon name="search" />}
          value={search.q ?? ""}
          data-testid="workload-search"
          onChange={(e) => narrow({ q: e.currentTarget.value || undefined })}
        />
        <NativeSelect
          aria-label={t("workloads.namespace")}
          value={search.ns ?? ""}
          data-testid="workload-namespace"
          onChange={(e) => narrow({ ns: e.currentTarget.value || undefined })}
          data={[
            { value: "", label: t("workloads.allNamespaces") },
            ...namespacesOf(all).map((ns) => ({ value: ns, label: ns })),
          ]}
        />
        <StageFilter
          counts={countByStage(filterRows(all, { ...search, stage: undefined }))}
          value={search.stage}
          onChange={(stage) => narrow({ stage })}
        />
      </div>
      <div className={classes.panel}>
        {list.isPending ? (
          <Loading rows={8} />
        ) : list.isError && all.length === 0 ? (
          <Failure error={list.error} retry={() => void list.refetch()} />
        ) : all.length === 0 ? (
          <Empty title={t("workloads.none")}>{t("workloads.noneText")}</Empty>
        ) : shown.length === 0 ? (
          <Empty icon="search" title={t("workloads.noMatch")}>
            {filtered && (
              <Button
                variant="default"
                size="xs"
                mt="xs"
                onClick={() => narrow({ q: undefined, ns: undefined, stage: undefined })}
              >
                {t("workloads.clear")}
              </Button>
            )}
          </Empty>
        ) : (
          <WorkloadTable
            rows={shown}
            sort={{ column: search.sort ?? "name", descending: search.desc ?? false }}
            onSort={(s) => narrow({ sort: s.column, desc: s.descending || undefined })}
          />
        )}
      </div>
    </>
  );
}
