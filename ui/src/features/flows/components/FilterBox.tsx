import { Button, TextInput } from "@mantine/core";
import { type FormEvent, useEffect, useId, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { ApiError } from "../../../api/error";
import { Icon } from "../../../components/Icon";
import classes from "./FilterBox.module.css";

/** The filter as text. What is wrong with it is said under it, with the place. */
export function FilterBox({
  filter,
  error,
  onChange,
}: {
  filter: string;
  error: unknown;
  onChange: (filter: string) => void;
}) {
  const { t } = useTranslation();
  const [text, setText] = useState(filter);
  const input = useRef<HTMLInputElement>(null);
  const help = useId();
  const wrong = error instanceof ApiError && error.field === "filter" ? error : undefined;
  useEffect(() => setText(filter), [filter]);
  useEffect(() => {
    if (wrong?.column !== undefined) {
      const at = unitsBefore(filter, wrong.column);
      input.current?.setSelectionRange(at, at + wordAt(filter, at).length);
    }
  }, [wrong, filter]);
  const submit = (e: FormEvent) => {
    e.preventDefault();
    onChange(text.trim());
  };
  return (
    <form className={classes.form} onSubmit={submit}>
      <TextInput
        ref={input}
        className={classes.input}
        classNames={{ input: classes.text }}
        aria-label={t("flows.filter")}
        aria-describedby={help}
        placeholder={t("flows.placeholder")}
        leftSection={<Icon name="search" />}
        value={text}
        maxLength={4096}
        spellCheck={false}
        autoComplete="off"
        autoCapitalize="off"
        data-testid="flow-filter"
        error={wrong ? <FilterError filter={filter} error={wrong} /> : undefined}
        errorProps={{ component: "div", role: "alert" }}
        onChange={(e) => setText(e.currentTarget.value)}
      />
      <Button type="submit" variant={text.trim() === filter ? "default" : "filled"}>
        {t("flows.apply")}
      </Button>
      <p id={help} className={classes.help}>
        {t("flows.help")}
      </p>
    </form>
  );
}

function FilterError({ filter, error }: { filter: string; error: ApiError }) {
  const { t } = useTranslation();
  const message = error.message.replace(/^filter: (column \d+: )?/, "");
  if (error.column === undefined) {
    return <span data-testid="filter-error">{message}</span>;
  }
  const at = unitsBefore(filter, error.column);
  const word = wordAt(filter, at);
  return (
    <span data-testid="filter-error">
      <code className={classes.where}>
        {filter.slice(Math.max(0, at - 30), at)}
        <mark className={classes.mark}>{word || "\u00a0"}</mark>
        {filter.slice(at + word.length, at + word.length + 30)}
      </code>
      {t("flows.wrongAt", { column: error.column, message })}
    </span>
  );
}

// The server counts characters, the browser UTF-16 units.
const unitsBefore = (text: string, column: number): number =>
  [...text].slice(0, column - 1).join("").length;

const wordAt = (text: string, at: number): string => /^[^\s,]*/.exec(text.slice(at))?.[0] ?? "";
