import { Button, NativeSelect } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Revision, Workload } from "../../../api/wire";
import { Icon } from "../../../components/Icon";
import { Panel } from "../../../components/Panel";
import { useAskSlotChange } from "../../workload/hooks/slotControl";
import { diffRevisions, type RevisionDiff } from "../api/diff";
import { sides } from "../api/draft";
import classes from "./RevisionDetail.module.css";

/** One revision's rules, compared with the live one or any other. */
export function RevisionDetail({
  revision,
  all,
  workload,
}: {
  revision: Revision;
  all: Revision[];
  workload: Workload;
}) {
  const { t } = useTranslation();
  const ask = useAskSlotChange();
  const { live, staged } = workload.summary.requested;
  const [against, setAgainst] = useState("live");
  const other = all.find((r) => r.number === (against === "live" ? live : Number(against)));
  const diff = diffRevisions(other, revision);
  const inSlot = revision.number === live || revision.number === staged;
  return (
    <Panel
      title={t("revisions.name", { revision: revision.number })}
      note={
        <>
          {revision.parent
            ? t("revisions.parent", { parent: revision.parent })
            : t("revisions.first")}{" "}
          ·{" "}
          <code className={classes.digest} title={revision.digest}>
            {revision.digest.slice(0, 12)}
          </code>
        </>
      }
      actions={
        <>
          <NativeSelect
            size="xs"
            aria-label={t("revisions.compare")}
            value={against}
            onChange={(e) => setAgainst(e.currentTarget.value)}
            data={[
              {
                value: "live",
                label: live
                  ? t("revisions.againstLive", { revision: live })
                  : t("revisions.againstNothing"),
              },
              ...all
                .filter((r) => r.number !== revision.number && r.number !== live)
                .map((r) => ({
                  value: String(r.number),
                  label: t("revisions.against", { revision: r.number }),
                })),
            ]}
            data-testid="diff-against"
          />
          <Button
            size="xs"
            variant="default"
            leftSection={<Icon name="audit" size={14} />}
            disabled={inSlot}
            onClick={() => ask("audit", revision.number)}
            data-testid={`revision-${revision.number}-audit`}
          >
            {t("revisions.audit")}
          </Button>
        </>
      }
      testId="revision-detail"
    >
      <p className={classes.summary}>
        {t("revisions.added", { count: diff.added })},{" "}
        {t("revisions.removed", { count: diff.removed })}
      </p>
      {diff.isolation.map(({ side, on }) => (
        <p key={side} className={classes.rule} data-change={on ? "added" : "removed"}>
          <Sign change={on ? "added" : "removed"} />
          {t(on ? "revisions.isolated" : "revisions.opened", {
            direction: t(`direction.${side}`),
          })}
        </p>
      ))}
      {diff.rules.length === 0 && <p className={classes.none}>{t("revisions.noRules")}</p>}
      {sides.map((side) => (
        <SideRules key={side} side={side} diff={diff} />
      ))}
      {workload.guardrails.length > 0 && (
        <>
          <h3 className={classes.side}>{t("revisions.guardrails")}</h3>
          <ul className={classes.rules} data-testid="guardrails">
            {workload.guardrails.map((g) => (
              <li key={g.name} className={classes.rule}>
                <span className={classes.sentence}>
                  {g.name}: {g.sentence}
                </span>
              </li>
            ))}
          </ul>
        </>
      )}
    </Panel>
  );
}

function SideRules({ side, diff }: { side: "ingress" | "egress"; diff: RevisionDiff }) {
  const { t } = useTranslation();
  const rules = diff.rules.filter((r) => r.side === side);
  if (rules.length === 0) {
    return null;
  }
  return (
    <>
      <h3 className={classes.side}>{t(`direction.${side}`)}</h3>
      <ul className={classes.rules}>
        {rules.map((r) => (
          <li key={`${r.id}${r.change}`} className={classes.rule} data-change={r.change}>
            <Sign change={r.change} />
            <span className={classes.sentence}>{r.sentence}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

const signs = { added: "+", removed: "−", kept: " " } as const;

function Sign({ change }: { change: keyof typeof signs }) {
  const { t } = useTranslation();
  return (
    <span className={classes.sign} role="img" aria-label={t(`revisions.change.${change}`)}>
      {signs[change]}
    </span>
  );
}
