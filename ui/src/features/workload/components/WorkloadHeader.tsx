import { useTranslation } from "react-i18next";
import { type Revision, refKey, type Workload } from "../../../api/wire";
import { Notice } from "../../../components/Notice";
import { StageBadges } from "../../../components/StageBadge";
import { TextLink } from "../../../components/TextLink";
import { actionState, slotActions } from "../api/actions";
import { useAskSlotChange } from "../hooks/slotControl";
import type { SlotChangeControl } from "../hooks/useSlotChange";
import { ActionButtons } from "./ActionButtons";
import { ChangeProgress } from "./ChangeProgress";
import { SlotGrid } from "./SlotGrid";
import classes from "./WorkloadHeader.module.css";

export function WorkloadHeader({
  workload,
  revisions,
  change,
}: {
  workload: Workload;
  revisions: Revision[] | undefined;
  change: SlotChangeControl;
}) {
  const { t } = useTranslation();
  const ask = useAskSlotChange();
  const { summary } = workload;
  const ref = summary.workload;
  return (
    <header>
      <p className={classes.crumbs}>
        <TextLink to="/workloads" inherit>
          {t("workloads.title")}
        </TextLink>{" "}
        / {ref.namespace}
      </p>
      <div className={classes.top}>
        <div className={classes.identity}>
          <h1 className={classes.name}>{ref.name}</h1>
          <StageBadges summary={summary} />
          <p className={classes.meta}>
            {ref.kind} · {t("workloads.endpoints", { count: summary.endpoints })}
            {Object.entries(summary.labels).map(([k, v]) => (
              <code key={k} className={classes.label}>
                {k}={v}
              </code>
            ))}
          </p>
          <TextLink to="/activity" search={{ workload: refKey(ref) }} size="sm">
            {t("workload.activity")}
          </TextLink>
        </div>
        <div className={classes.control}>
          <ActionButtons
            states={(summary.requested.staged
              ? (["unstage", ...slotActions] as const)
              : slotActions
            ).map((a) => actionState(a, workload, revisions))}
            pending={change.pending ? change.asked?.action : undefined}
            onAction={(action, unlearned) => ask(action, undefined, unlearned)}
          />
          <SlotGrid summary={summary} />
        </div>
      </div>
      <div className={classes.notices}>
        <ChangeProgress change={change} />
        <NodeNotices workload={workload} />
      </div>
    </header>
  );
}

/** What a node says is wrong with this workload. */
function NodeNotices({ workload }: { workload: Workload }) {
  const { t } = useTranslation();
  return (
    <>
      {workload.nodes.map((n) => (
        <div key={n.node} className={classes.nodeNotices}>
          {n.error && (
            <Notice tone="bad" title={t("workload.nodeError", { node: n.node })}>
              {n.error}
            </Notice>
          )}
          {n.revertedFrom ? (
            <Notice tone="warn" testId="reverted">
              {t("workload.reverted", { node: n.node, revision: n.revertedFrom })}
            </Notice>
          ) : null}
        </div>
      ))}
    </>
  );
}
