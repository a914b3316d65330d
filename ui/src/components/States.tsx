import { Button, Skeleton } from "@mantine/core";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { ApiError } from "../api/error";
import { Icon, type IconName } from "./Icon";
import { Notice } from "./Notice";
import classes from "./States.module.css";

export function Loading({ rows = 4 }: { rows?: number }) {
  const { t } = useTranslation();
  return (
    <div className={classes.loading} role="status" aria-label={t("state.loading")}>
      {Array.from({ length: rows }, (_, i) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: the rows are all alike
        <Skeleton key={i} height={18} radius="sm" />
      ))}
    </div>
  );
}

export function Empty({
  icon = "observe",
  title,
  children,
  testId,
}: {
  icon?: IconName;
  title: ReactNode;
  children?: ReactNode;
  testId?: string;
}) {
  return (
    <div className={classes.empty} data-testid={testId}>
      <span className={classes.emptyIcon}>
        <Icon name={icon} size={20} />
      </span>
      <p className={classes.emptyTitle}>{title}</p>
      {children && <div className={classes.emptyText}>{children}</div>}
    </div>
  );
}

/** What the server said was wrong, with what is missing, and a way to try again. */
export function Failure({
  error,
  title,
  retry,
}: {
  error: unknown;
  title?: string;
  retry?: () => void;
}) {
  const { t } = useTranslation();
  const message = error instanceof Error ? error.message : String(error);
  const missing = error instanceof ApiError ? error.missing : [];
  return (
    <Notice
      tone="bad"
      title={title ?? t("state.failed")}
      testId="error"
      action={
        retry && (
          <Button size="compact-sm" variant="default" onClick={retry}>
            {t("state.retry")}
          </Button>
        )
      }
    >
      {message}
      {missing.length > 0 && (
        <ul>
          {missing.map((m) => (
            <li key={m}>{m}</li>
          ))}
        </ul>
      )}
    </Notice>
  );
}
