import { Button, NativeSelect, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import {
  type Ask,
  type Connection,
  type Explanation,
  refKey,
  type Slot,
  type WorkloadRef,
} from "../../../api/wire";
import { Notice } from "../../../components/Notice";
import { Panel } from "../../../components/Panel";
import { Failure } from "../../../components/States";
import classes from "./ExplainPanel.module.css";

/** Is a connection allowed, by which rule, and why not by the others? */
export function ExplainPanel({ workload }: { workload: WorkloadRef }) {
  const { t } = useTranslation();
  const [form, setForm] = useState<Ask>({
    source: "world",
    destination: refKey(workload),
    port: "443",
    slot: "live",
  });
  const [asked, setAsked] = useState<Ask>();
  const answer = useQuery({
    ...queries.explanation(asked ?? form),
    enabled: asked !== undefined,
    retry: false,
  });
  const ask = (e: FormEvent) => {
    e.preventDefault();
    setAsked(form);
    if (asked === form) {
      void answer.refetch();
    }
  };
  return (
    <Panel title={t("explain.title")} note={t("explain.invite")} testId="explain">
      <form className={classes.form} onSubmit={ask}>
        {(["source", "destination", "port"] as const).map((field) => (
          <TextInput
            key={field}
            label={t(`explain.${field}`)}
            placeholder={field === "port" ? t("explain.portHint") : undefined}
            value={form[field]}
            required
            maxLength={field === "port" ? 64 : 512}
            onChange={(e) => setForm({ ...form, [field]: e.currentTarget.value })}
            data-testid={`explain-${field}`}
          />
        ))}
        <NativeSelect
          label={t("explain.slot")}
          value={form.slot}
          data={(["live", "staged"] as const).map((value) => ({
            value,
            label: t(`explain.slots.${value}`),
          }))}
          onChange={(e) => setForm({ ...form, slot: e.currentTarget.value as Slot })}
          data-testid="explain-slot"
        />
        <Button type="submit" loading={answer.isFetching} data-testid="btn-explain">
          {t("explain.ask")}
        </Button>
      </form>
      {answer.error && <Failure error={answer.error} />}
      {!answer.error &&
        answer.data?.connections.map((c, i) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: an answer is shown whole
          <Answer key={i} connection={c} />
        ))}
    </Panel>
  );
}

function Answer({ connection }: { connection: Connection }) {
  const { t } = useTranslation();
  return (
    <div className={classes.answer} data-testid="explain-answer">
      <Notice
        tone={connection.allowed ? "good" : "bad"}
        title={t(connection.allowed ? "explain.allowed" : "explain.denied")}
      >
        {connection.summary}
      </Notice>
      <Side title={t("explain.egress", { name: connection.source })} said={connection.egress} />
      <Side
        title={t("explain.ingress", { name: connection.destination })}
        said={connection.ingress}
      />
    </div>
  );
}

function Side({ title, said }: { title: string; said: Explanation | undefined }) {
  const { t } = useTranslation();
  if (!said || said.rules.length === 0) {
    return null;
  }
  return (
    <section>
      <h3 className={classes.side}>{title}</h3>
      <ul className={classes.rules}>
        {said.rules.map((r) => (
          <li key={r.index}>
            {r.matched ? (
              <b>{t("explain.rule", { n: r.index + 1, sentence: r.sentence })}</b>
            ) : (
              t("explain.rule", { n: r.index + 1, sentence: r.sentence })
            )}
            {r.why.map((why) => (
              <p key={why} className={classes.why}>
                {why}
              </p>
            ))}
          </li>
        ))}
      </ul>
    </section>
  );
}
