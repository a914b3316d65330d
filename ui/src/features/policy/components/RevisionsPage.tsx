import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { Revision, Workload } from "../../../api/wire";
import { Panel } from "../../../components/Panel";
import { Empty, Failure, Loading } from "../../../components/States";
import { When } from "../../../components/When";
import { useWorkloadRef } from "../../workload/hooks/useWorkloadRef";
import { CheckPanel } from "./CheckPanel";
import { RevisionDetail } from "./RevisionDetail";
import classes from "./RevisionsPage.module.css";

/** Every revision, who made it and why; beside it what the chosen one changes. */
export function RevisionsPage() {
  const { t } = useTranslation();
  const ref = useWorkloadRef();
  const revisions = useQuery(queries.revisions(ref));
  const workload = useQuery(queries.workload(ref)).data;
  const [picked, setPicked] = useState<number>();

  if (revisions.isPending || !workload) {
    return <Loading rows={5} />;
  }
  if (!revisions.data) {
    return <Failure error={revisions.error} retry={() => void revisions.refetch()} />;
  }
  const chosen = revisions.data.find((r) => r.number === picked) ?? revisions.data[0];
  if (!chosen) {
    return (
      <Panel title={t("revisions.title")}>
        <Empty icon="edit" title={t("revisions.none")}>
          {t("revisions.noneText")}
        </Empty>
      </Panel>
    );
  }
  const { live, staged } = workload.summary.requested;
  const slot = chosen.number === live ? "live" : chosen.number === staged ? "staged" : undefined;
  return (
    <div className={classes.page}>
      <Panel title={t("revisions.title")} flush>
        <ul className={classes.list}>
          {revisions.data.map((r) => (
            <li key={r.number}>
              <button
                type="button"
                className={classes.item}
                aria-pressed={r.number === chosen.number}
                onClick={() => setPicked(r.number)}
                data-testid={`revision-${r.number}`}
              >
                <Item revision={r} workload={workload} />
              </button>
            </li>
          ))}
        </ul>
      </Panel>
      <div className={classes.chosen}>
        <RevisionDetail revision={chosen} all={revisions.data} workload={workload} />
        {slot && <CheckPanel key={chosen.number} workload={ref} slot={slot} />}
      </div>
    </div>
  );
}

function Item({ revision: r, workload }: { revision: Revision; workload: Workload }) {
  const { t } = useTranslation();
  const { requested } = workload.summary;
  return (
    <>
      <span className={classes.line}>
        <strong>{t("revisions.name", { revision: r.number })}</strong>
        {requested.live === r.number && (
          <span className={classes.mark} data-slot="live">
            {t("slot.live")}
          </span>
        )}
        {requested.staged === r.number && (
          <span className={classes.mark} data-slot="staged">
            {t("slot.staged")}
          </span>
        )}
      </span>
      <span className={classes.meta}>
        {t(`revisions.origin.${r.origin}`)} · {r.author} · <When time={r.createdAt} />
      </span>
      {r.comment && <span className={classes.comment}>{r.comment}</span>}
    </>
  );
}
