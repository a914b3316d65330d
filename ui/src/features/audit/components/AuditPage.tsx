import { NativeSelect } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { Slot, WorkloadSummary } from "../../../api/wire";
import { useWorkloadRef } from "../../workload/hooks/useWorkloadRef";
import { type GroupBy, groupings } from "../api/groups";
import classes from "./AuditPage.module.css";
import { SlotDenials } from "./SlotDenials";

const windows = [0, 1, 24, 168] as const;

/** What the staged revision would deny, and what the live one denies. */
export function AuditPage() {
  const { t } = useTranslation();
  const ref = useWorkloadRef();
  const summary = useQuery(queries.workload(ref)).data?.summary;
  const [hours, setHours] = useState(0);
  const [by, setBy] = useState<GroupBy>("none");
  if (!summary) {
    return null;
  }
  return (
    <div className={classes.page}>
      <div className={classes.toolbar}>
        <NativeSelect
          aria-label={t("denials.window")}
          value={String(hours)}
          onChange={(e) => setHours(Number(e.currentTarget.value))}
          data={windows.map((h) => ({ value: String(h), label: t(`review.window.h${h}`) }))}
        />
        <NativeSelect
          aria-label={t("denials.groupBy")}
          value={by}
          onChange={(e) => setBy(e.currentTarget.value as GroupBy)}
          data={groupings.map((g) => ({ value: g, label: t(`denials.by.${g}`) }))}
          data-testid="audit-group"
        />
      </div>
      {slotsOf(summary).map((slot) => (
        <SlotDenials key={slot} slot={slot} summary={summary} hours={hours || undefined} by={by} />
      ))}
    </div>
  );
}

// What is judged comes first; an empty staged slot is shown too, for how to fill it.
function slotsOf(s: WorkloadSummary): Slot[] {
  if (!s.requested.live && !s.effective.live) {
    return ["staged"];
  }
  return s.requested.staged ? ["staged", "live"] : ["live", "staged"];
}
