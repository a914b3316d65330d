import { useQuery } from "@tanstack/react-query";
import { Link, Outlet } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { ApiError } from "../../../api/error";
import { queries } from "../../../api/queries";
import { type Revision, refKey, type Workload } from "../../../api/wire";
import { formatCount } from "../../../app/format";
import { useTitle } from "../../../app/title";
import { Empty, Failure, Loading } from "../../../components/States";
import { TextLink } from "../../../components/TextLink";
import { workloadFilter } from "../../flows/api/filter";
import { actionState } from "../api/actions";
import { type AskSlotChange, SlotControl } from "../hooks/slotControl";
import { type SlotRequest, useSlotChange } from "../hooks/useSlotChange";
import { useWorkloadRef } from "../hooks/useWorkloadRef";
import { ConfirmDialog } from "./ConfirmDialog";
import { WorkloadHeader } from "./WorkloadHeader";
import classes from "./WorkloadLayout.module.css";

/** One workload: its header with the buttons, and a tab for each question about it. */
export function WorkloadLayout() {
  const { t } = useTranslation();
  const ref = useWorkloadRef();
  const workload = useQuery(queries.workload(ref));
  const revisions = useQuery(queries.revisions(ref));
  useTitle(`${ref.name} · ${ref.namespace}`);

  if (workload.isPending) {
    return <Loading rows={6} />;
  }
  if (!workload.data) {
    const missing = workload.error instanceof ApiError && workload.error.status === 404;
    return missing ? (
      <Empty icon="search" title={t("workload.missing", { name: refKey(ref) })}>
        <TextLink to="/workloads">{t("state.toWorkloads")}</TextLink>
      </Empty>
    ) : (
      <Failure error={workload.error} retry={() => void workload.refetch()} />
    );
  }
  return <LoadedWorkload key={refKey(ref)} workload={workload.data} revisions={revisions.data} />;
}

function LoadedWorkload({
  workload,
  revisions,
}: {
  workload: Workload;
  revisions: Revision[] | undefined;
}) {
  const { summary } = workload;
  const change = useSlotChange(summary.workload);
  const [asked, setAsked] = useState<SlotRequest>();

  const ask: AskSlotChange = (action, revision, unlearned) => {
    const wanted = revision ?? actionState(action, workload, revisions).revision;
    if (wanted !== undefined && !change.pending) {
      change.dismiss();
      setAsked({ action, revision: wanted, version: summary.version, unlearned });
    }
  };

  return (
    <SlotControl value={ask}>
      <WorkloadHeader workload={workload} revisions={revisions} change={change} />
      <Tabs workload={workload} revisions={revisions} />
      <Outlet />
      <ConfirmDialog
        request={asked}
        workload={workload}
        revisions={revisions}
        onCancel={() => setAsked(undefined)}
        onConfirm={(request) => {
          setAsked(undefined);
          change.request(request);
        }}
      />
    </SlotControl>
  );
}

function Tabs({ workload, revisions }: { workload: Workload; revisions: Revision[] | undefined }) {
  const { t } = useTranslation();
  const { workload: ref, wouldDeny, denied } = workload.summary;
  const tab = (count: number) =>
    count > 0 && <span className={classes.count}>{formatCount(count)}</span>;
  return (
    <nav className={classes.tabs} aria-label={t("workload.tabs.label")}>
      <Link
        to="/workloads/$namespace/$kind/$name"
        params={ref}
        activeOptions={{ exact: true }}
        data-testid="tab-review"
      >
        {t("workload.tabs.review")}
      </Link>
      <Link to="/workloads/$namespace/$kind/$name/audit" params={ref} data-testid="tab-audit">
        {t("workload.tabs.audit")}
        {tab(wouldDeny + denied)}
      </Link>
      <Link
        to="/workloads/$namespace/$kind/$name/revisions"
        params={ref}
        data-testid="tab-revisions"
      >
        {t("workload.tabs.revisions")}
        {tab(revisions?.length ?? 0)}
      </Link>
      <Link
        to="/workloads/$namespace/$kind/$name/endpoints"
        params={ref}
        data-testid="tab-endpoints"
      >
        {t("workload.tabs.endpoints")}
      </Link>
      <Link to="/flows" search={{ q: workloadFilter(ref) }} data-testid="tab-flows">
        {t("workload.tabs.flows")}
      </Link>
    </nav>
  );
}
