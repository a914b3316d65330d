import { type ErrorComponentProps, useRouter } from "@tanstack/react-router";
import { useTranslation } from "react-i18next";
import { Empty, Failure, Loading } from "../components/States";
import { TextLink } from "../components/TextLink";
import classes from "./pages.module.css";

export function PageError({ error }: ErrorComponentProps) {
  const router = useRouter();
  return (
    <div className={classes.page}>
      <Failure error={error} retry={() => void router.invalidate()} />
    </div>
  );
}

export function PagePending() {
  return (
    <div className={classes.page}>
      <Loading rows={6} />
    </div>
  );
}

export function NotFound() {
  const { t } = useTranslation();
  return (
    <div className={classes.page}>
      <Empty icon="search" title={t("state.notFound")}>
        <TextLink to="/workloads">{t("state.toWorkloads")}</TextLink>
      </Empty>
    </div>
  );
}
