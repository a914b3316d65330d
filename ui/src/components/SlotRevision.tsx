import { useTranslation } from "react-i18next";
import type { SlotView } from "../features/workload/api/slots";
import classes from "./SlotRevision.module.css";

/** A slot in one line: its revision, and what is not as asked for. */
export function SlotRevision({ view }: { view: SlotView }) {
  const { t } = useTranslation();
  if (view.requested === undefined && view.effective === undefined) {
    return null;
  }
  return (
    <span className={classes.slot} data-slot={view.slot}>
      <span className={classes.name}>{t(`slot.${view.slot}`)}</span>{" "}
      <span>{revisionName(t, view.effective)}</span>
      {view.pending && (
        <span className={classes.pending}>
          {t("slot.requested", { revision: revisionName(t, view.requested) })}
        </span>
      )}
      {view.confirmed === false && <span className={classes.pending}>{t("slot.unconfirmed")}</span>}
    </span>
  );
}

const revisionName = (t: ReturnType<typeof useTranslation>["t"], n: number | undefined): string =>
  n === undefined ? t("slot.empty") : t("slot.revision", { revision: n });
