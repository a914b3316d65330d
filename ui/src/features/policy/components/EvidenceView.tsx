import { useQuery } from "@tanstack/react-query";
import { useId, useState } from "react";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { Evidence, Flow } from "../../../api/wire";
import { formatBytes, formatCount } from "../../../app/format";
import { PartyName } from "../../../components/PartyName";
import { Failure } from "../../../components/States";
import { TextLink } from "../../../components/TextLink";
import { When } from "../../../components/When";
import { VerdictBadge } from "../../flows/components/parts";
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
      <Samples filter={e.filter} />
    </div>
  );
}

/** Some of the records behind it, fetched once somebody wants to see them. */
function Samples({ filter }: { filter: string }) {
  const { t } = useTranslation();
  const id = useId();
  const [open, setOpen] = useState(false);
  const page = useQuery({ ...queries.samples(filter), enabled: open });
  return (
    <>
      <button
        type="button"
        className={classes.more}
        aria-expanded={open}
        aria-controls={id}
        onClick={() => setOpen(!open)}
        data-testid="samples"
      >
        {t("evidence.samples")}
      </button>
      <div id={id}>
        {open && (
          <>
            {page.isPending && <p className={classes.line}>{t("state.loading")}</p>}
            {page.error && <Failure error={page.error} retry={() => void page.refetch()} />}
            {page.data?.flows.length === 0 && (
              <p className={classes.line}>{t("evidence.samplesNone")}</p>
            )}
            {page.data && page.data.flows.length > 0 && (
              <ul className={classes.samples}>
                {page.data.flows.map((f) => (
                  <li key={f.id} data-testid="sample">
                    <When time={f.time} /> <VerdictBadge verdict={f.outcome} />
                    <br />
                    {endText(f.source, f.sourceAddress)} →{" "}
                    {endText(f.destination, f.destinationAddress)} {f.protocol} {f.port || ""}
                  </li>
                ))}
                <li>
                  <TextLink to="/flows" search={{ q: filter }} inherit>
                    {t("evidence.samplesAll")}
                  </TextLink>
                </li>
              </ul>
            )}
          </>
        )}
      </div>
    </>
  );
}

const endText = (party: Flow["source"], address: string): string =>
  [party.endpoint, address].filter(Boolean).join(" ");
