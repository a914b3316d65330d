import { useTranslation } from "react-i18next";
import { formatCount } from "../../../app/format";
import { partyText } from "../../../components/partyText";
import type { DenialRow } from "../api/groups";
import classes from "./DenialList.module.css";

/** Denials as short lines. */
export function DenialList({ rows }: { rows: DenialRow[] }) {
  const { t } = useTranslation();
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: its frame scrolls, so it must be reachable
    <ul className={classes.list} aria-label={t("denials.label")} tabIndex={0}>
      {rows.map((d) => (
        <li key={d.key} data-testid="replay-row">
          <span>
            {partyText(t, d.source)} → {partyText(t, d.destination)}
            <span className={classes.port}>
              {d.protocol} {d.port || ""}
            </span>
          </span>
          <strong>{formatCount(d.connections)}</strong>
        </li>
      ))}
    </ul>
  );
}
