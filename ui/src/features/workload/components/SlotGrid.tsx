import { useTranslation } from "react-i18next";
import type { WorkloadSummary } from "../../../api/wire";
import { Icon } from "../../../components/Icon";
import { type SlotView, slotView } from "../api/slots";
import classes from "./SlotGrid.module.css";

/** Requested, effective and confirmed are three facts, and shown as three. */
export function SlotGrid({ summary }: { summary: WorkloadSummary }) {
  const { t } = useTranslation();
  return (
    <table className={classes.grid} aria-label={t("slot.label")} data-testid="slots">
      <thead>
        <tr>
          <th scope="col">{t("slot.slot")}</th>
          <th scope="col">{t("slot.columns.requested")}</th>
          <th scope="col">{t("slot.columns.effective")}</th>
          <th scope="col">{t("slot.columns.confirmed")}</th>
        </tr>
      </thead>
      <tbody>
        <Row view={slotView(summary, "live")} />
        <Row view={slotView(summary, "staged")} />
      </tbody>
    </table>
  );
}

function Row({ view }: { view: SlotView }) {
  const { t } = useTranslation();
  const name = (n: number | undefined) =>
    n === undefined ? t("slot.empty") : t("slot.revision", { revision: n });
  return (
    <tr data-testid={`slot-${view.slot}`}>
      <th scope="row">{t(`slot.${view.slot}`)}</th>
      <td data-empty={view.requested === undefined || undefined}>{name(view.requested)}</td>
      <td
        data-empty={view.effective === undefined || undefined}
        data-pending={view.pending || undefined}
      >
        {name(view.effective)}
        {view.pending && <span className={classes.note}>{t("slot.pending")}</span>}
      </td>
      <td data-pending={view.confirmed === false || undefined}>
        {view.confirmed === undefined ? (
          <span className={classes.none}>
            {view.effective === undefined ? "–" : t("slot.notNeeded")}
          </span>
        ) : view.confirmed ? (
          <span className={classes.yes}>
            <Icon name="check" size={14} />
            {t("slot.confirmed")}
          </span>
        ) : (
          t("slot.unconfirmed")
        )}
      </td>
    </tr>
  );
}
