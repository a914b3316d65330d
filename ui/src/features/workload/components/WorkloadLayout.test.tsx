import { screen, waitFor, within } from "@testing-library/react";
import { beforeEach, describe, expect, test } from "vitest";
import { Refused, start } from "../../../../test/app";
import { attacks } from "../../../../test/fixtures.mjs";
import { cartAnswers, cartApi, cartPath, cartWorkload, revision } from "../../../../test/shop";
import type { SlotResult, Workload } from "../../../api/wire";
import { drafts } from "../../policy/hooks/drafts";

beforeEach(() => drafts.clear());

/** A workload whose revision 4 is staged, and what is known of it. */
function staged(more: (w: Workload) => Record<string, unknown> = () => ({})) {
  const w = cartWorkload((x) => {
    x.summary.requested = { staged: 4 };
    x.summary.effective = { staged: 4 };
    x.summary.version = 11;
  });
  const app = start(cartPath, {
    ...cartAnswers(w, [revision(4)]),
    [`GET ${cartApi}/denials`]: { judged: 5000, denied: 20, denials: attacks() },
    ...more(w),
  });
  return { ...app, w };
}

/** What a promotion answers: in every kernel after 38 ms, not confirmed yet. */
function promoted(w: Workload): SlotResult {
  w.summary = {
    ...w.summary,
    requested: { live: 4 },
    effective: { live: 4 },
    confirmed: false,
    version: 12,
  };
  w.nodes = w.nodes.map((n) => ({ ...n, effective: { live: 4 }, confirmed: false }));
  return {
    summary: w.summary,
    nodes: w.nodes,
    requestedAt: "2026-01-02T03:04:05.000Z",
    switchedAt: "2026-01-02T03:04:05.038Z",
  };
}

describe("Enforce", () => {
  test("says what it will do, sends what was seen, and follows it to the confirmation", async () => {
    const app = staged((w) => ({ [`POST ${cartApi}/promote`]: () => promoted(w) }));
    await app.user.click(await screen.findByTestId("btn-enforce"));
    const dialog = within(await screen.findByRole("dialog"));
    const text = (await dialog.findByTestId("confirm-would-deny")).closest("section")?.textContent;
    await dialog.findByText("5,000 connections judged, 20 would be denied");
    for (const part of [
      "Enforce revision 4 of cartservice?",
      "boutique/Host/cartservice",
      "node-1, node-2",
      "Ingress is default-deny; egress stays open.",
      "within 10 seconds",
      "Roll back on this page",
      "ringfence panic",
    ]) {
      expect(text).toContain(part);
    }
    await app.user.click(dialog.getByTestId("confirm-ok"));
    expect((await screen.findByTestId("step-effective")).textContent).toContain("38 ms");
    expect(screen.getByTestId("step-confirmed").dataset.done).toBeUndefined();
    expect(app.called(`POST ${cartApi}/promote`)[0]?.body).toEqual({ revision: 4, version: 11 });

    app.w.summary = { ...app.w.summary, confirmed: true };
    app.w.nodes = app.w.nodes.map((n) => ({ ...n, confirmed: true }));
    await waitFor(() => expect(screen.getByTestId("step-confirmed").dataset.done).toBe("true"), {
      timeout: 3000,
    });
    expect(within(screen.getByTestId("slot-live")).getByText("by every node")).toBeDefined();
  });

  test("cancelled, it sends nothing", async () => {
    const app = staged();
    await app.user.click(await screen.findByTestId("btn-enforce"));
    await app.user.click(await screen.findByTestId("confirm-cancel"));
    await waitFor(() => expect(screen.queryByRole("dialog")).toBeNull());
    expect(app.calls.some((c) => c.route.endsWith("/promote"))).toBe(false);
  });

  test.each([
    ["conflict", "revision 4 is already enforced", []],
    ["not_ready", "it cannot be enforced yet", ["node-2 is not connected"]],
  ])("refused with %s shows the server's reason", async (code, words, missing) => {
    const app = staged(() => ({
      [`POST ${cartApi}/promote`]: new Refused(409, code, words, { missing }),
    }));
    await app.user.click(await screen.findByTestId("btn-enforce"));
    await app.user.click(await screen.findByTestId("confirm-ok"));
    const error = await screen.findByTestId("change-error");
    expect(error.textContent).toContain("Enforce was refused");
    for (const part of [words, ...missing]) {
      expect(error.textContent).toContain(part);
    }
  });

  test("a change behind the open dialog is pointed out, and the old version is sent", async () => {
    const app = staged(() => ({
      [`POST ${cartApi}/promote`]: new Refused(409, "conflict", "the slots changed meanwhile"),
    }));
    await app.user.click(await screen.findByTestId("btn-enforce"));
    app.w.summary = { ...app.w.summary, version: 12 };
    await app.queryClient.invalidateQueries({ queryKey: ["workload"] });
    await screen.findByTestId("confirm-changed");
    await app.user.click(screen.getByTestId("confirm-ok"));
    await screen.findByTestId("change-error");
    expect(app.called(`POST ${cartApi}/promote`)[0]?.body).toEqual({ revision: 4, version: 11 });
  });

  test("a node that goes back by itself is a bad end", async () => {
    const app = staged((w) => ({ [`POST ${cartApi}/promote`]: () => promoted(w) }));
    await app.user.click(await screen.findByTestId("btn-enforce"));
    await app.user.click(await screen.findByTestId("confirm-ok"));
    await screen.findByTestId("step-effective");
    app.w.nodes = app.w.nodes.map((n, i) => (i ? { ...n, effective: {}, revertedFrom: 4 } : n));
    await waitFor(
      () => expect(screen.getByTestId("change").textContent).toContain("Revision 4 did not hold"),
      { timeout: 3000 },
    );
    expect(screen.getByTestId("reverted").textContent).toContain("node-2");
  });
});

test("a button that cannot be used is reachable, says why and does nothing", async () => {
  const app = staged((w) => {
    w.actions.enforce = "too early: 40 seconds of the warm-up are left";
    return {};
  });
  const enforce = await screen.findByTestId<HTMLButtonElement>("btn-enforce");
  expect(enforce.disabled).toBe(false);
  expect(enforce.ariaDisabled).toBe("true");
  const reason = document.getElementById(enforce.getAttribute("aria-describedby") ?? "");
  expect(reason?.textContent).toContain("too early: 40 seconds");
  await app.user.click(enforce);
  expect(screen.queryByRole("dialog")).toBeNull();
  expect(screen.getByTestId("reason-rollback").textContent).toContain("nothing is live");
});

test("what learning lacks can be passed over, for a reason", async () => {
  const app = staged((w) => {
    w.actions.enforce = "revision 4 cannot be enforced yet: watched for 3h of 168h (and 1 more)";
    w.actions.unlearned = ["watched for 3h of 168h", "20 of 168 hours of the week"];
    return { [`POST ${cartApi}/promote`]: new Refused(409, "conflict", "no") };
  });
  await app.user.click(await screen.findByTestId("btn-anyway"));
  expect((await screen.findByTestId("confirm-unlearned")).textContent).toContain("20 of 168 hours");
  const ok = screen.getByTestId<HTMLButtonElement>("confirm-ok");
  expect(ok.disabled).toBe(true);
  await app.user.type(screen.getByTestId("confirm-why"), " audit tomorrow ");
  await app.user.click(ok);
  await screen.findByTestId("change-error");
  expect(app.called(`POST ${cartApi}/promote`)[0]?.body).toEqual({
    revision: 4,
    version: 11,
    anyway: "audit tomorrow",
  });
});

test("Audit takes the newest revision, and Stop audit is there while one is staged", async () => {
  const app = start(cartPath, {
    ...cartAnswers(
      cartWorkload((w) => {
        w.summary.requested = { staged: 1 };
      }),
      [revision(2), revision(1)],
    ),
    [`POST ${cartApi}/replay`]: { judged: 10, denied: 0, denials: [] },
    [`POST ${cartApi}/stage`]: new Refused(409, "conflict", "no"),
    [`POST ${cartApi}/unstage`]: new Refused(409, "conflict", "no"),
  });
  await app.user.click(await screen.findByTestId("btn-audit"));
  await screen.findByText("History: 10 connections judged, 0 would be denied");
  await app.user.click(screen.getByTestId("confirm-ok"));
  await screen.findByTestId("change-error");
  expect(app.called(`POST ${cartApi}/stage`)[0]?.body).toMatchObject({ revision: 2 });
  await app.user.click(screen.getByTestId("btn-unstage"));
  await app.user.click(await screen.findByTestId("confirm-ok"));
  await waitFor(() =>
    expect(app.called(`POST ${cartApi}/unstage`)[0]?.body).toMatchObject({ revision: 1 }),
  );
});

test("a workload that does not exist leads back to the list", async () => {
  start("/workloads/boutique/Host/nobody", {
    "GET /api/v1/session": { user: "admin" },
  });
  expect(await screen.findByText("There is no workload boutique/Host/nobody")).toBeDefined();
});
