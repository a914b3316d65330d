import { useQuery } from "@tanstack/react-query";
import type { TFunction } from "i18next";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { Denial, Denials, Slot, WorkloadSummary } from "../../../api/wire";
import { formatCount } from "../../../app/format";
import { Panel } from "../../../components/Panel";
import { PartyName } from "../../../components/PartyName";
import { Empty, Failure, Loading } from "../../../components/States";
import { TextLink } from "../../../components/TextLink";
import { When } from "../../../components/When";
import { denialFilter } from "../../flows/api/filter";
import { type DenialGroup, type GroupBy, groupDenials } from "../api/groups";
import { DenialTable } from "./DenialTable";
import classes from "./SlotDenials.module.css";

/** One slot's denials: grouped, or a sentence on what was judged. */
export function SlotDenials({
  slot,
  summary,
  hours,
  by,
}: {
  slot: Slot;
  summary: WorkloadSummary;
  hours: number | undefined;
  by: GroupBy;
}) {
  const { t } = useTranslation();
  const ref = summary.workload;
  const revision = summary.requested[slot];
  const denials = useQuery({ ...queries.denials(ref, slot, hours), enabled: Boolean(revision) });
  const data = denials.data;
  const flowsOf = (d: Denial) => denialFilter(ref, slot, revision, data?.since, d);
  return (
    <Panel
      title={revision ? t(`denials.title.${slot}`, { revision }) : t(`denials.titleEmpty.${slot}`)}
      note={revision && data ? judgedText(t, slot, data) : undefined}
      actions={
        revision && data && data.denials.length > 0 ? (
          <TextLink
            to="/flows"
            search={{ q: denialFilter(ref, slot, revision, data.since) }}
            size="sm"
            data-testid={`flows-${slot}`}
          >
            {t("denials.flows")}
          </TextLink>
        ) : undefined
      }
      flush
      testId={`denials-${slot}`}
    >
      {!revision ? (
        <Empty icon="audit" title={t("denials.nothingStaged")} testId="audit-empty">
          {t("denials.nothingStagedText")}
        </Empty>
      ) : denials.isPending ? (
        <Loading rows={4} />
      ) : !data ? (
        <Failure error={denials.error} retry={() => void denials.refetch()} />
      ) : data.denials.length === 0 ? (
        <Empty
          icon={data.judged > 0 ? "check" : "clock"}
          title={t(data.judged > 0 ? `denials.clean.${slot}` : "denials.notJudged", {
            judged: t("denials.connections", { count: data.judged }),
          })}
          testId="audit-empty"
        >
          {t(data.judged > 0 ? "denials.cleanText" : "denials.notJudgedText")}
        </Empty>
      ) : by === "none" ? (
        <DenialTable denials={data.denials} self={ref} flowsOf={flowsOf} />
      ) : (
        groupDenials(data.denials, by).map((g) => (
          <Group key={g.key} group={g} by={by}>
            <DenialTable denials={g.rows} self={ref} without={by} flowsOf={flowsOf} />
          </Group>
        ))
      )}
    </Panel>
  );
}

const judgedText = (t: TFunction, slot: Slot, d: Denials): string =>
  t(`denials.judged.${slot}`, {
    denied: formatCount(d.denied),
    judged: t("denials.connections", { count: d.judged }),
  });

function Group({
  group,
  by,
  children,
}: {
  group: DenialGroup;
  by: GroupBy;
  children: React.ReactNode;
}) {
  const { t } = useTranslation();
  return (
    <details className={classes.group} open data-testid="audit-group-row">
      <summary className={classes.head}>
        <span className={classes.name}>
          <GroupName group={group} by={by} />
        </span>
        <span className={classes.counts}>
          <strong>{t("denials.connections", { count: group.connections })}</strong>
          <span>{t("denials.packets", { count: group.packets })}</span>
          <span>
            <When time={group.firstSeen} /> – <When time={group.lastSeen} />
          </span>
        </span>
      </summary>
      {children}
    </details>
  );
}

function GroupName({ group, by }: { group: DenialGroup; by: GroupBy }) {
  const { t } = useTranslation();
  const d = group.sample;
  switch (by) {
    case "source":
    case "destination":
      return <PartyName party={{ ...d[by], endpoint: undefined }} self />;
    case "port":
      return <>{`${d.protocol} ${d.port || ""}`}</>;
    case "direction":
      return <>{t(`direction.${d.direction}`)}</>;
    case "reason":
      return <>{t([`reason.${d.reason}`, "reason.other"], { reason: d.reason })}</>;
    case "none":
      return null;
  }
}
