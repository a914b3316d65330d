import { Modal } from "@mantine/core";
import type { TFunction } from "i18next";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";
import type { Flow, Judgement, Party } from "../../../api/wire";
import { formatBytes, formatCount, formatMoment, parseTime } from "../../../app/format";
import { reservedText } from "../../../components/partyText";
import { WorkloadLink } from "../../../components/TextLink";
import classes from "./FlowDetail.module.css";
import { VerdictBadge } from "./parts";

/** All that is known of one record. */
export function FlowDetail({ flow, onClose }: { flow: Flow | undefined; onClose: () => void }) {
  const { t } = useTranslation();
  return (
    <Modal
      opened={flow !== undefined}
      onClose={onClose}
      title={t("flows.detail.title")}
      closeButtonProps={{ "aria-label": t("dialog.close") }}
      // Locking the scroll would need an inline style element.
      lockScroll={false}
      size="lg"
      centered
    >
      {flow && (
        <dl className={classes.facts} data-testid="flow-detail">
          {factsOf(t, flow).map(([name, value]) => (
            <div key={name}>
              <dt>{t(`flows.detail.${name}`)}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      )}
    </Modal>
  );
}

const factsOf = (t: TFunction, f: Flow): [string, ReactNode][] => [
  ["from", <End key="from" party={f.source} address={f.sourceAddress} port={f.sourcePort} />],
  ["to", <End key="to" party={f.destination} address={f.destinationAddress} port={f.port} />],
  ["verdict", <VerdictBadge key="v" verdict={f.outcome} />],
  ["protocol", f.protocol],
  ["live", judged(t, f.live)],
  ["staged", judged(t, f.staged)],
  ["direction", t(`direction.${f.direction}`)],
  ["event", t([`flows.event.${f.event}`, "flows.event.none"])],
  ["connections", formatCount(f.connections)],
  ["forward", carried(t, f.packetsForward, f.bytesForward)],
  ["reverse", carried(t, f.packetsReverse, f.bytesReverse)],
  ["time", exact(f.time)],
  ["firstSeen", exact(f.firstSeen)],
  ["stored", exact(f.stored)],
  ["node", f.node],
];

const exact = (s: string): string => {
  const at = parseTime(s);
  return at ? formatMoment(at) : "";
};

const carried = (t: TFunction, packets: number, bytes: number): string =>
  t("flows.detail.carried", { count: packets, bytes: formatBytes(bytes) });

function judged(t: TFunction, j: Judgement): string {
  if (j.verdict === "unknown") {
    return t("reason.none");
  }
  const reason = t([`reason.${j.reason}`, "reason.other"], { reason: j.reason });
  return t(`flows.detail.judged.${j.verdict}`, { reason, revision: j.revision ?? 0 });
}

function End({ party: p, address, port }: { party: Party; address: string; port: number }) {
  const { t } = useTranslation();
  const labels = Object.entries(p.labels ?? {});
  return (
    <span className={classes.end}>
      {p.workload?.name ? (
        <WorkloadLink workload={p.workload}>
          {`${p.workload.namespace}/${p.workload.kind}/${p.workload.name}`}
        </WorkloadLink>
      ) : (
        <span>{p.reserved ? reservedText(t, p.reserved) : t("reserved.unknown")}</span>
      )}
      <code>{address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`}</code>
      {p.endpoint && <span className={classes.muted}>{p.endpoint}</span>}
      {labels.length > 0 && (
        <span className={classes.labels}>
          {labels.map(([k, v]) => (
            <code key={k}>{`${k}=${v}`}</code>
          ))}
        </span>
      )}
    </span>
  );
}
