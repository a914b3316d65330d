import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";
import type { StreamState } from "../../../api/events";
import { queries } from "../../../api/queries";
import { formatCount, formatDuration, formatPercent } from "../../../app/format";
import { useNow } from "../../../components/useNow";
import { type Health, healthOf, type Tone } from "../api/health";
import classes from "./StatusStrip.module.css";

/** Nodes, learning, losses and the store, on every page. */
export function StatusStrip({ stream }: { stream: StreamState }) {
  const { t } = useTranslation();
  const status = useQuery(queries.status());
  const now = useNow();
  const health = status.data && healthOf(status.data, now);
  return (
    <section className={classes.strip} aria-label={t("strip.label")} data-testid="status-strip">
      <div className={classes.items}>
        {health ? (
          <Items health={health} />
        ) : (
          <Item tone={status.isError ? "bad" : "idle"}>
            {status.isError ? t("strip.unreachable") : t("state.loading")}
          </Item>
        )}
        <span className={classes.live}>
          <Item
            tone={stream === "live" ? "good" : stream === "lost" ? "warn" : "idle"}
            testId="stream"
          >
            {t(`strip.stream.${stream}`)}
          </Item>
        </span>
      </div>
      {health && health.panicked.length > 0 && (
        <p className={classes.panic} role="alert">
          {t("strip.panicked", {
            nodes: health.panicked.join(", "),
            count: health.panicked.length,
          })}
        </p>
      )}
    </section>
  );
}

function Items({ health }: { health: Health }) {
  const { t } = useTranslation();
  return (
    <>
      <Link to="/nodes" className={classes.link}>
        <Item tone={health.nodes.tone} testId="strip-nodes">
          {t("strip.nodes", { connected: health.nodes.connected, all: health.nodes.all })}
        </Item>
      </Link>
      <Item
        tone={health.observedFor === undefined ? "idle" : health.coverage < 0.95 ? "warn" : "good"}
        progress={health.warmUp}
        progressLabel={t("strip.warmUp")}
        testId="strip-learning"
      >
        {health.observedFor === undefined
          ? t("strip.waiting")
          : t("strip.observed", {
              time: formatDuration(health.observedFor),
              coverage: formatPercent(health.coverage),
            })}
      </Item>
      <Item tone="idle">
        {t("strip.edges", { count: health.edges })},{" "}
        {t("denials.connections", { count: health.connections })}
      </Item>
      <Item tone={health.lost > 0 ? "warn" : "good"} testId="strip-lost">
        {t("strip.lost", { count: health.lost, n: formatCount(health.lost) })}
      </Item>
      <Item tone={health.store.healthy ? "good" : "bad"} testId="strip-store">
        {health.store.healthy
          ? t(health.store.embedded ? "strip.storeEmbedded" : "strip.storeExternal")
          : health.store.detail
            ? t("strip.storeDownWhy", { detail: health.store.detail })
            : t("strip.storeDown")}
      </Item>
    </>
  );
}

function Item({
  tone,
  progress,
  progressLabel,
  testId,
  children,
}: {
  tone: Tone;
  progress?: number;
  progressLabel?: string;
  testId?: string;
  children: ReactNode;
}) {
  return (
    <span className={classes.item} data-tone={tone} data-testid={testId}>
      <span className={classes.dot} aria-hidden="true" />
      <span>{children}</span>
      {progress !== undefined && progress < 1 && (
        <progress
          className={classes.progress}
          max={1}
          value={progress}
          aria-label={progressLabel}
        />
      )}
    </span>
  );
}
