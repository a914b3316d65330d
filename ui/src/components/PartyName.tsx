import { useTranslation } from "react-i18next";
import type { Party } from "../api/wire";
import classes from "./PartyName.module.css";
import { WorkloadLink } from "./TextLink";

/** One end of a flow: a workload by its name, anything else by what it is and its address. */
export function PartyName({ party, self }: { party: Party; self?: boolean }) {
  const { t } = useTranslation();
  const w = party.workload;
  if (w?.name) {
    const detail = [w.namespace, party.endpoint].filter(Boolean).join(" · ");
    return (
      <span className={classes.party}>
        {self ? <strong>{w.name}</strong> : <WorkloadLink workload={w}>{w.name}</WorkloadLink>}
        <span className={classes.detail}>{detail}</span>
      </span>
    );
  }
  const name = party.reserved
    ? t([`reserved.${party.reserved}`, "reserved.other"], { name: party.reserved })
    : undefined;
  return (
    <span className={classes.party}>
      {name && <span>{name}</span>}
      {party.address && (
        <span className={name ? classes.detail : undefined}>
          <code className={classes.address}>{party.address}</code>
        </span>
      )}
      {!name && !party.address && <span>{t("reserved.unknown")}</span>}
    </span>
  );
}
