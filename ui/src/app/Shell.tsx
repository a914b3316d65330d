import { useQuery } from "@tanstack/react-query";
import { Link, Outlet, useRouter } from "@tanstack/react-router";
import { useEffect } from "react";
import { useTranslation } from "react-i18next";
import { useEvents } from "../api/events";
import { queries } from "../api/queries";
import { Brand } from "../components/Brand";
import { safeNext } from "../features/login/hooks/next";
import { StatusStrip } from "../features/nodes/components/StatusStrip";
import { AccountButton } from "./AccountButton";
import { SchemeButton } from "./SchemeButton";
import classes from "./Shell.module.css";

/** The frame of every page behind the login. */
export function Shell() {
  const { t } = useTranslation();
  const stream = useEvents();
  useLeaveWhenLoggedOut();
  return (
    <div className={classes.shell}>
      <a className={classes.skip} href="#content">
        {t("nav.skip")}
      </a>
      <header className={classes.header}>
        <div className={classes.bar}>
          <Link to="/workloads" className={classes.home} aria-label={t("nav.home")}>
            <Brand />
          </Link>
          <nav className={classes.nav} aria-label={t("nav.label")}>
            <Link to="/workloads" activeOptions={{ includeSearch: false }}>
              {t("nav.workloads")}
            </Link>
            <Link to="/flows" activeOptions={{ includeSearch: false }}>
              {t("nav.flows")}
            </Link>
            <Link to="/activity" activeOptions={{ includeSearch: false }}>
              {t("nav.activity")}
            </Link>
            <Link to="/nodes">{t("nav.nodes")}</Link>
          </nav>
          <div className={classes.tools}>
            <SchemeButton />
            <AccountButton />
          </div>
        </div>
        <StatusStrip stream={stream} />
      </header>
      <main id="content" className={classes.main} tabIndex={-1}>
        <Outlet />
      </main>
    </div>
  );
}

// The session query turns null when any answer says that the session has ended.
function useLeaveWhenLoggedOut(): void {
  const router = useRouter();
  const session = useQuery({ ...queries.session(), refetchInterval: 60_000 });
  const ended = session.data === null;
  useEffect(() => {
    if (ended) {
      const next = safeNext(router.history.location.href);
      void router.navigate({ to: "/login", search: { next }, replace: true });
    }
  }, [ended, router]);
}
