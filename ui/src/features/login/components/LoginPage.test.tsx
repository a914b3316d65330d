import { screen, waitFor } from "@testing-library/react";
import { expect, test } from "vitest";
import { FakeEvents, Refused, start } from "../../../../test/app";
import { status, workloads } from "../../../../test/shop";

const unauthorized = new Refused(401, "unauthorized", "log in first");

test("a visitor logs in and comes to the page asked for", async () => {
  let inside = false;
  const app = start("/nodes", {
    "GET /api/v1/session": () => (inside ? { user: "admin" } : unauthorized),
    "POST /api/v1/session": ({ body }: { body: unknown }) => {
      inside = (body as { password: string }).password === "right";
      return inside
        ? { user: "admin" }
        : new Refused(401, "unauthorized", "the user or the password is wrong");
    },
    "GET /api/v1/status": status(),
  });
  await app.user.type(await screen.findByTestId("login-password"), "wrong");
  await app.user.click(screen.getByTestId("login-submit"));
  expect((await screen.findByRole("alert")).textContent).toContain("the password is wrong");
  expect((screen.getByTestId("login-password") as HTMLInputElement).value).toBe("");

  await app.user.type(screen.getByTestId("login-password"), "right{Enter}");
  await screen.findByTestId("node-row-node-1");
  expect(app.history.location.pathname).toBe("/nodes");
  expect(app.called("POST /api/v1/session").at(-1)?.body).toEqual({
    user: "admin",
    password: "right",
  });
});

test("too many attempts are refused in the server's words", async () => {
  const app = start("/login", {
    "GET /api/v1/session": unauthorized,
    "POST /api/v1/session": new Refused(429, "rate_limited", "wait 30 seconds and try again"),
  });
  await app.user.type(await screen.findByTestId("login-password"), "x{Enter}");
  expect((await screen.findByRole("alert")).textContent).toContain("wait 30 seconds");
});

test("a session that ends leads to the login and back to the same place", async () => {
  let inside = true;
  const whenInside = (body: unknown) => () => (inside ? body : unauthorized);
  const app = start("/workloads?q=cart", {
    "GET /api/v1/session": whenInside({ user: "admin" }),
    "POST /api/v1/session": () => {
      inside = true;
      return { user: "admin" };
    },
    "GET /api/v1/status": whenInside(status()),
    "GET /api/v1/workloads": whenInside(workloads().map((w) => w.summary)),
  });
  await screen.findByTestId("workload-row-boutique-Host-cartservice");
  inside = false;
  await app.queryClient.invalidateQueries({ queryKey: ["status"] });
  await app.user.type(await screen.findByTestId("login-password"), "again{Enter}");
  await screen.findByTestId("workload-row-boutique-Host-cartservice");
  expect(app.history.location.href).toBe("/workloads?q=cart");
});

test("a refused event stream asks whether the session ended", async () => {
  let inside = true;
  start("/nodes", {
    "GET /api/v1/session": () => (inside ? { user: "admin" } : unauthorized),
    "GET /api/v1/status": status(),
  });
  await screen.findByTestId("node-row-node-1");
  inside = false;
  const events = FakeEvents.last;
  events?.close();
  events?.onerror?.();
  await waitFor(() => expect(screen.queryByTestId("login-submit")).not.toBeNull());
});
