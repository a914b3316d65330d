import { useTranslation } from "react-i18next";
import type { Party } from "../../../api/wire";
import { partyText } from "../../../components/partyText";
import classes from "./parts.module.css";

/** One end of a record: who it is, and its address. */
export function FlowEnd({ party, address }: { party: Party; address: string }) {
  const { t } = useTranslation();
  const known = Boolean(party.workload?.name || party.reserved);
  const where = [party.workload?.namespace, address].filter(Boolean).join(" · ");
  return (
    <span className={classes.end} title={where}>
      <span className={classes.name}>{known ? partyText(t, party) : address}</span>
      <span className={classes.detail}>{known ? where : t("reserved.unknown")}</span>
    </span>
  );
}

/** What happened to the packets. */
export function VerdictBadge({ verdict }: { verdict: string }) {
  const { t } = useTranslation();
  return (
    <span className={classes.verdict} data-verdict={verdict}>
      {t([`flows.verdict.${verdict}`, "flows.verdict.unknown"])}
    </span>
  );
}
