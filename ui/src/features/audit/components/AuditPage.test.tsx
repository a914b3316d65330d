import { screen, within } from "@testing-library/react";
import { expect, test } from "vitest";
import { type Call, start } from "../../../../test/app";
import { attacks } from "../../../../test/fixtures.mjs";
import { cartAnswers, cartApi, cartPath, cartWorkload, revision } from "../../../../test/shop";
import type { Denials, SlotRevisions } from "../../../api/wire";

const none: Denials = { judged: 0, denied: 0, denials: [] };

function audit(requested: SlotRevisions, bySlot: Record<string, Denials>) {
  const w = cartWorkload((x) => {
    x.summary.requested = requested;
    x.summary.effective = requested;
  });
  return start(`${cartPath}/audit`, {
    ...cartAnswers(w, [revision(4), revision(3)]),
    [`GET ${cartApi}/denials`]: ({ search }: Call) => bySlot[search.get("slot") ?? ""] ?? none,
  });
}

const both = {
  staged: { judged: 5000, denied: 20, denials: attacks() },
  live: { ...none, judged: 70 },
};

test("shows both slots apart, with counts, and groups them", async () => {
  const app = audit({ live: 3, staged: 4 }, both);
  const staged = within(await screen.findByTestId("denials-staged"));
  expect((await staged.findAllByTestId("audit-row")).length).toBe(4);
  expect(staged.getByText("Would be denied by revision 4, audited")).toBeDefined();
  expect(
    staged.getByText("5,000 connections judged, 20 would be denied; nothing is dropped"),
  ).toBeDefined();
  const live = within(screen.getByTestId("denials-live"));
  expect(
    await live.findByText("70 connections judged, 0 denied", { selector: "p[class*=Title]" }),
  ).toBeDefined();

  await app.user.selectOptions(screen.getByTestId("audit-group"), "port");
  expect(
    staged.getAllByTestId("audit-group-row").map((g) => g.querySelector("summary")?.textContent),
  ).toEqual([
    expect.stringContaining("TCP 7070"),
    expect.stringContaining("TCP 22"),
    expect.stringContaining("UDP 161"),
    expect.stringContaining("TCP 4444"),
  ]);
});

test.each([
  [
    { staged: 4 },
    { staged: { ...none, judged: 4821 } },
    "4,821 connections judged, 0 would be denied",
  ],
  [{ staged: 4 }, { staged: none }, "No connection judged yet"],
  [{}, {}, "Nothing is audited"],
])("%o without denials says what was judged", async (requested, bySlot, text) => {
  const app = audit(requested, bySlot);
  expect((await screen.findByTestId("audit-empty")).textContent).toContain(text);
  const asked = app.calls.filter((c) => c.route.endsWith("/denials"));
  expect(asked.length > 0).toBe("staged" in requested);
});

test("a window is asked of the server", async () => {
  const app = audit({ staged: 4 }, both);
  await screen.findAllByTestId("audit-row");
  await app.user.selectOptions(screen.getByLabelText("Time window"), "1");
  await screen.findAllByTestId("audit-row");
  const since = app.calls
    .filter((c) => c.route.endsWith("/denials"))
    .map((c) => c.search.get("since"));
  expect(since[0]).toBeNull();
  expect(Date.now() - Date.parse(since.at(-1) ?? "")).toBeLessThan(3_660_000);
});
