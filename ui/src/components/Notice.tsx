import type { ReactNode } from "react";
import { Icon, type IconName } from "./Icon";
import classes from "./Notice.module.css";

export type NoticeTone = "info" | "good" | "warn" | "bad";

const icons: Record<NoticeTone, IconName> = {
  info: "clock",
  good: "check",
  warn: "warning",
  bad: "warning",
};

/** A message in the page; bad ones are announced at once. */
export function Notice({
  tone,
  title,
  children,
  action,
  testId,
}: {
  tone: NoticeTone;
  title?: ReactNode;
  children?: ReactNode;
  action?: ReactNode;
  testId?: string;
}) {
  return (
    <div
      className={classes.notice}
      data-tone={tone}
      data-testid={testId}
      role={tone === "bad" ? "alert" : "status"}
    >
      <Icon name={icons[tone]} size={18} className={classes.icon} />
      <div className={classes.text}>
        {title && <p className={classes.title}>{title}</p>}
        {children && <div>{children}</div>}
      </div>
      {action && <div className={classes.action}>{action}</div>}
    </div>
  );
}
