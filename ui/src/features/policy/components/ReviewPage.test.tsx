import { screen, waitFor, within } from "@testing-library/react";
import { beforeEach, describe, expect, test } from "vitest";
import { type Call, Refused, start } from "../../../../test/app";
import { flow } from "../../../../test/fixtures.mjs";
import {
  cart,
  cartAnswers,
  cartApi,
  cartPath,
  cartWorkload,
  cidrRule,
  recommendation,
  revision,
} from "../../../../test/shop";
import type { NewRevision, Revision } from "../../../api/wire";
import { drafts } from "../hooks/drafts";

beforeEach(() => drafts.clear());

const flagged = recommendation("cartservice").rules.filter((r) => r.proposed === "review");
const admin = flagged[0]?.rule.id;
const external = flagged[1]?.rule.id;

function review(more: Record<string, unknown> = {}, revisions: Revision[] = []) {
  return start(cartPath, { ...cartAnswers(cartWorkload(), revisions), ...more });
}

const saved = ({ body }: Call) => revision(1, { policy: (body as NewRevision).policy });

describe("a first review", () => {
  test("cannot be saved undecided, takes unflagged rules together and flagged ones alone", async () => {
    const app = review({ [`POST ${cartApi}/revisions`]: saved });
    const create = await screen.findByTestId<HTMLButtonElement>("btn-create-revision");
    expect(create.disabled).toBe(true);
    await app.user.click(await screen.findByText("Accept 5 unflagged rules"));
    expect(screen.getByTestId(`rule-${admin}`).dataset.decision).toBe("none");
    await app.user.click(screen.getByTestId(`rule-${admin}-reject`));
    await app.user.click(screen.getByTestId(`rule-${external}-accept`));
    await app.user.type(screen.getByTestId("revision-comment"), "looked at each");
    await app.user.click(create);
    await screen.findByTestId("revision-created");

    const body = app.called(`POST ${cartApi}/revisions`)[0]?.body as NewRevision;
    expect(body).toMatchObject({ origin: "recommendation", parent: 0, comment: "looked at each" });
    expect(body.policy).toMatchObject({
      workload: cart,
      isolateIngress: true,
      isolateEgress: true,
    });
    expect(body.policy.ingress.flatMap((r) => r.ports.map((p) => p.port))).toEqual([7070, 7070]);
    expect(body.policy.egress.length).toBe(4);
  });

  test("a second press on Accept does not take it back", async () => {
    const app = review();
    const accept = await screen.findByTestId(`rule-${admin}-accept`);
    await app.user.dblClick(accept);
    expect(screen.getByTestId(`rule-${admin}`).dataset.decision).toBe("accept");
    expect(accept.getAttribute("aria-pressed")).toBe("true");
  });

  test("decisions survive another page and are gone for another workload", async () => {
    const app = review({ "GET /api/v1/activity": [] });
    await app.user.click(await screen.findByTestId(`rule-${admin}-accept`));
    await app.user.click(screen.getByRole("link", { name: "Activity" }));
    await screen.findByText("Nothing has happened yet");
    app.history.back();
    expect((await screen.findByTestId(`rule-${admin}`)).dataset.decision).toBe("accept");
  });
});

test("an edit is checked, saved as edited and accepted, and sent", async () => {
  const app = review({ [`POST ${cartApi}/revisions`]: saved });
  await app.user.click(await screen.findByTestId(`rule-${external}-edit`));
  const editor = within(await screen.findByRole("dialog"));
  await app.user.clear(editor.getByTestId("editor-port"));
  await app.user.type(editor.getByTestId("editor-port"), "99999");
  await app.user.click(editor.getByTestId("editor-save"));
  expect(editor.getByText("A port is a number from 1 to 65535.")).toBeDefined();

  await app.user.clear(editor.getByTestId("editor-port"));
  await app.user.type(editor.getByTestId("editor-port"), "8443");
  const remove = editor.getAllByRole("button", { name: "Remove this peer" });
  await app.user.click(remove[1] as HTMLElement);
  await app.user.click(editor.getByTestId("editor-save"));
  const card = screen.getByTestId(`rule-${external}`);
  expect(card.dataset.decision).toBe("accept");
  expect(card.textContent).toContain("may connect to 203.0.113.10/32 on TCP 8443");

  await app.user.click(screen.getByTestId("btn-create-revision"));
  await screen.findByTestId("revision-created");
  const body = app.called(`POST ${cartApi}/revisions`)[0]?.body as NewRevision;
  expect(body.origin).toBe("edit");
  expect(body.policy.egress).toEqual([
    { peers: [{ cidr: { prefix: "203.0.113.10/32" } }], ports: [{ protocol: "TCP", port: 8443 }] },
  ]);
});

test("a hand-made rule of the newest revision stays unless it is rejected", async () => {
  const byHand = cidrRule("192.0.2.0/24", 8443);
  const newest = revision(3, {
    policy: {
      workload: cart,
      isolateIngress: true,
      isolateEgress: true,
      ingress: [],
      egress: [byHand],
    },
  });
  const app = review({ [`POST ${cartApi}/revisions`]: saved }, [newest]);
  const card = await screen.findByTestId(`rule-${byHand.id}`);
  expect(card.dataset.decision).toBe("accept");
  expect(card.textContent).toContain("not learned from this window");
  await app.user.click(screen.getByTestId(`rule-${byHand.id}-reject`));
  await app.user.click(screen.getByTestId("btn-create-revision"));
  await waitFor(() => expect(app.called(`POST ${cartApi}/revisions`).length).toBe(1));
  expect(app.called(`POST ${cartApi}/revisions`)[0]?.body).toMatchObject({
    parent: 3,
    policy: { egress: [] },
  });
});

test("a review starts from what a person made, not from a way back", async () => {
  const rule = cidrRule("192.0.2.0/24", 8443);
  const made = revision(1, {
    policy: {
      workload: cart,
      isolateIngress: true,
      isolateEgress: true,
      ingress: [],
      egress: [rule],
    },
  });
  const back = revision(2, {
    origin: "rollback",
    policy: {
      workload: cart,
      isolateIngress: false,
      isolateEgress: false,
      ingress: [],
      egress: [],
    },
  });
  const app = review({ [`POST ${cartApi}/revisions`]: saved }, [back, made]);
  expect((await screen.findByTestId(`rule-${rule.id}`)).dataset.decision).toBe("accept");
  await app.user.click(screen.getByTestId(`rule-${admin}-accept`));
  await app.user.click(screen.getByTestId("btn-create-revision"));
  await waitFor(() =>
    expect(app.called(`POST ${cartApi}/revisions`)[0]?.body).toMatchObject({ parent: 2 }),
  );
});

test.each([
  [409, "conflict", "revision 4 was made meanwhile", "Somebody was faster"],
  [409, "not_ready", "rule 1 is flagged", "Flagged rules are accepted one by one"],
  [400, "invalid", "the prefix has host bits set", "The revision was refused"],
])(
  "a refusal with %i shows the server's reason and keeps the decisions",
  async (code, kind, words, title) => {
    const app = review({
      [`POST ${cartApi}/revisions`]: new Refused(code, kind, words, { field: "policy.egress.0" }),
    });
    await app.user.click(await screen.findByTestId(`rule-${admin}-accept`));
    await app.user.click(screen.getByTestId("btn-create-revision"));
    const alert = await screen.findByRole("alert");
    expect(alert.textContent).toContain(words);
    expect(alert.textContent).toContain(title);
    expect(
      screen.getByText(/^It is about policy.egress.0.$|^Look at them over the whole history/),
    ).toBeDefined();
    expect(screen.getByTestId(`rule-${admin}`).dataset.decision).toBe("accept");
  },
);

test("evidence shows the flows behind it, when somebody asks", async () => {
  const app = review({ "GET /api/v1/flows": { flows: [flow(0)] } });
  const card = within(await screen.findByTestId(`rule-${admin}`));
  expect(app.called("GET /api/v1/flows")).toEqual([]);
  await app.user.click(card.getByTestId("samples"));
  const sample = await card.findByTestId("sample");
  expect(sample.textContent).toContain(flow(0).destinationAddress);
  expect(app.called("GET /api/v1/flows")[0]?.search.get("filter")).toBe("to.port=22 protocol=TCP");
  expect(card.getByText("All in Flows").getAttribute("href")).toContain("/flows?q=");
});

test("nothing learned says why, and a direction never seen is said to be open", async () => {
  const none = recommendation("cartservice");
  review({
    [`GET ${cartApi}/recommendation`]: {
      ...none,
      rules: [],
      excluded: [],
      ingressObserved: false,
      egressObserved: false,
      isolateIngress: false,
      isolateEgress: false,
      noPolicy: "no traffic was observed in this window",
    },
  });
  expect((await screen.findByTestId("no-policy")).textContent).toContain("no traffic was observed");
  expect(screen.getByTestId("unobserved-egress").textContent).toContain("left open");
});

test("a history check is of what is decided now, and goes with the next decision", async () => {
  const app = review({
    [`POST ${cartApi}/replay`]: { judged: 900, denied: 3, denials: [] },
  });
  await app.user.click(await screen.findByTestId(`rule-${admin}-accept`));
  await app.user.click(screen.getByTestId("btn-replay"));
  expect((await screen.findByTestId("replay-result")).textContent).toContain(
    "History: 900 connections judged, 3",
  );
  await app.user.click(screen.getByTestId(`rule-${external}-accept`));
  expect(screen.queryByTestId("replay-result")).toBeNull();
});
