import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Evidence } from "../../../api/wire";
import { formatBytes, formatCount } from "../../../app/format";
import { PartyName } from "../../../components/PartyName";
import { When } from "../../../components/When";
import classes from "./EvidenceView.module.css";

const shown = 2;

/** What was seen that speaks for a rule, a block for each peer and port. */
export function EvidenceView({ evidence, implied }: { evidence: Evidence[]; implied: boolean }) {
  const { t } = useTranslation();
  const [all, setAll] = useState(false);
  const list = all ? evidence : evidence.slice(0, shown);
  return (
    <section className={classes.evidence} aria-label={t("evidence.label")}>
      {evidence.length === 0 && (
        <p className={classes.none}>{t(implied ? "evidence.implied" : "evidence.none")}</p>
      )}
      {list.map((e) => (
        <One key={JSON.stringify([e.peer, e.protocol, e.port])} evidence={e} />
      ))}
      {evidence.length > shown && (
        <button type="button" className={classes.more} onClick={() => setAll(!all)}>
          {all ? t("evidence.less") : t("evidence.more", { count: evidence.length - shown })}
        </button>
      )}
    </section>
  );
}

function One({ evidence: e }: { evidence: Evidence }) {
  const { t } = useTranslation();
  const unanswered = e.connections - e.answered;
  return (
    <div className={classes.one}>
      <p className={classes.head}>
        <span className={classes.peer}>
          <PartyName party={e.peer} />
        </span>
        <span className={classes.port}>
          {e.protocol} {e.port || ""}
        </span>
      </p>
      <p className={classes.line}>
        <strong>{t("evidence.connections", { count: e.connections })}</strong>
        {unanswered > 0 && (
          <span className={classes.unanswered}>
            , {t("evidence.unanswered", { count: unanswered, n: formatCount(unanswered) })}
          </span>
        )}
      </p>
      <p className={classes.line}>
        {t("evidence.bytes", {
          sent: formatBytes(e.bytesForward),
          received: formatBytes(e.bytesReverse),
        })}
      </p>
      <p className={classes.line}>
        <When time={e.firstSeen} /> – <When time={e.lastSeen} />,{" "}
        {t("evidence.hours", { count: e.hours, n: formatCount(e.hours) })}
      </p>
      <p className={classes.line}>
        {t("evidence.endpoints", {
          source: formatCount(e.sourceEndpoints),
          destination: formatCount(e.destinationEndpoints),
        })}
        , {t(`evidence.observedAt.${e.observedAt}`)}
      </p>
    </div>
  );
}
