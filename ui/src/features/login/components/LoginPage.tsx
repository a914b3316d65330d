import { Button, PasswordInput, TextInput } from "@mantine/core";
import { useSearch } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { useTranslation } from "react-i18next";
import { useTitle } from "../../../app/title";
import { Brand } from "../../../components/Brand";
import { Failure } from "../../../components/States";
import { useLogin } from "../hooks/useLogin";
import classes from "./LoginPage.module.css";

export function LoginPage() {
  const { t } = useTranslation();
  const { next } = useSearch({ from: "/login" });
  const [user, setUser] = useState("admin");
  const [password, setPassword] = useState("");
  const attempt = useLogin(next);
  useTitle(t("login.title"));

  const submit = (e: FormEvent) => {
    e.preventDefault();
    attempt.mutate({ user, password }, { onError: () => setPassword("") });
  };

  return (
    <main className={classes.page}>
      <form className={classes.card} onSubmit={submit}>
        <Brand size={36} />
        <h1 className={classes.title}>{t("login.title")}</h1>
        {attempt.error && <Failure error={attempt.error} title={t("login.failed")} />}
        {next && !attempt.error && <p className={classes.hint}>{t("login.next")}</p>}
        <TextInput
          label={t("login.user")}
          name="username"
          autoComplete="username"
          data-testid="login-user"
          value={user}
          onChange={(e) => setUser(e.currentTarget.value)}
          required
          withAsterisk={false}
        />
        <PasswordInput
          label={t("login.password")}
          name="password"
          autoComplete="current-password"
          data-testid="login-password"
          value={password}
          onChange={(e) => setPassword(e.currentTarget.value)}
          visibilityToggleButtonProps={{ "aria-label": t("login.show") }}
          required
          withAsterisk={false}
        />
        <Button type="submit" loading={attempt.isPending} data-testid="login-submit" fullWidth>
          {t("login.submit")}
        </Button>
        <p className={classes.hint}>{t("login.hint")}</p>
      </form>
    </main>
  );
}
