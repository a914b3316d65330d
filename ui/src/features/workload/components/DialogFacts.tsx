import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { replay } from "../../../api/mutations";
import { queries } from "../../../api/queries";
import { type Denial, type Denials, type Revision, refKey, type Workload } from "../../../api/wire";
import { formatCount } from "../../../app/format";
import { partyText } from "../../../components/partyText";
import { When } from "../../../components/When";
import { isolationOf } from "../api/actions";
import type { SlotRequest } from "../hooks/useSlotChange";
import classes from "./ConfirmDialog.module.css";

/** What the change is about: workload, revision, directions, nodes, and what would be denied. */
export function DialogFacts({
  request,
  workload,
  revision,
}: {
  request: SlotRequest;
  workload: Workload;
  revision: Revision | undefined;
}) {
  const { t } = useTranslation();
  const { summary, nodes } = workload;
  return (
    <dl className={classes.facts}>
      <Fact name={t("dialog.facts.workload")}>
        <strong>{refKey(summary.workload)}</strong>,{" "}
        {t("workloads.endpoints", { count: summary.endpoints })}
      </Fact>
      <Fact name={t("dialog.facts.revision")}>
        <strong>{t("slot.revision", { revision: request.revision })}</strong>
        {revision && (
          <>
            {" "}
            {t("dialog.facts.by", { author: revision.author })} <When time={revision.createdAt} />
            {revision.comment && `: “${revision.comment}”`}
          </>
        )}
      </Fact>
      {(request.action === "audit" || request.action === "enforce") && revision && (
        <Fact name={t("dialog.facts.directions")}>
          {t(`dialog.isolation.${isolationOf(revision.policy)}`)}{" "}
          {t("dialog.facts.rules", { count: revision.rules.length })}
        </Fact>
      )}
      <Fact name={t("dialog.facts.nodes")}>
        {nodes.length === 0
          ? t("dialog.facts.noNodes")
          : nodes.map((n, i) => (
              <span key={n.node}>
                {i > 0 && ", "}
                {n.node}
                {!n.connected && (
                  <strong className={classes.bad}> ({t("dialog.facts.disconnected")})</strong>
                )}
              </span>
            ))}
      </Fact>
      {request.action === "enforce" && (
        <Fact name={t("dialog.facts.wouldDeny")} testId="confirm-would-deny">
          <AuditedDenials workload={workload} />
        </Fact>
      )}
      {request.action === "audit" && revision && (
        <Fact name={t("dialog.facts.history")}>
          <HistoryDenials workload={workload} revision={revision} />
        </Fact>
      )}
    </dl>
  );
}

function Fact({ name, testId, children }: { name: string; testId?: string; children: ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd data-testid={testId}>{children}</dd>
    </div>
  );
}

function AuditedDenials({ workload }: { workload: Workload }) {
  const q = useQuery(queries.denials(workload.summary.workload, "staged"));
  return <DenialWords denials={q.data} error={q.error} kind="audited" />;
}

function HistoryDenials({ workload, revision }: { workload: Workload; revision: Revision }) {
  const ref = workload.summary.workload;
  const q = useQuery({
    queryKey: ["replay", refKey(ref), revision.digest],
    queryFn: () => replay(ref, revision.policy),
    retry: false,
  });
  return <DenialWords denials={q.data} error={q.error} kind="history" />;
}

function DenialWords({
  denials,
  error,
  kind,
}: {
  denials: Denials | undefined;
  error: Error | null;
  kind: "audited" | "history";
}) {
  const { t } = useTranslation();
  if (error) {
    return <span className={classes.bad}>{t("dialog.unknown", { reason: error.message })}</span>;
  }
  if (!denials) {
    return t("state.loading");
  }
  const n = denials.denied;
  return (
    <>
      <strong className={n > 0 ? classes.bad : classes.good}>
        {t(`dialog.judged.${kind}`, {
          denied: formatCount(n),
          judged: t("denials.connections", { count: denials.judged }),
        })}
      </strong>
      {n > 0 && <TopDenials denials={denials.denials} />}
    </>
  );
}

const shown = 3;

function TopDenials({ denials }: { denials: Denial[] }) {
  const { t } = useTranslation();
  const top = denials.toSorted((a, b) => b.connections - a.connections);
  return (
    <ul className={classes.denials}>
      {top.slice(0, shown).map((d) => (
        <li key={JSON.stringify([d.direction, d.source, d.destination, d.protocol, d.port])}>
          {t("dialog.denial", {
            source: partyText(t, d.source),
            destination: partyText(t, d.destination),
            protocol: d.protocol,
            port: d.port || "",
            connections: formatCount(d.connections),
          })}
        </li>
      ))}
      {top.length > shown && <li>{t("dialog.more", { count: top.length - shown })}</li>}
    </ul>
  );
}
