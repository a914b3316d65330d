import { type ReactNode, useId } from "react";
import classes from "./Panel.module.css";

/** A titled part of a page. */
export function Panel({
  title,
  note,
  actions,
  flush,
  children,
  testId,
}: {
  title: ReactNode;
  note?: ReactNode;
  actions?: ReactNode;
  /** Children reach the panel's edges: for tables. */
  flush?: boolean;
  children?: ReactNode;
  testId?: string;
}) {
  const id = useId();
  return (
    <section className={classes.panel} aria-labelledby={id} data-testid={testId}>
      <div className={classes.head}>
        <div className={classes.titles}>
          <h2 id={id} className={classes.title}>
            {title}
          </h2>
          {note && <p className={classes.note}>{note}</p>}
        </div>
        {actions && <div className={classes.actions}>{actions}</div>}
      </div>
      {children && <div className={flush ? classes.flush : classes.body}>{children}</div>}
    </section>
  );
}
