import { screen, within } from "@testing-library/react";
import { expect, test } from "vitest";
import { Refused, start } from "../../../../test/app";
import { check } from "../../../../test/fixtures.mjs";
import { cartAnswers, cartApi, cartPath, cartWorkload, revision } from "../../../../test/shop";

const live = () =>
  cartWorkload((w) => {
    w.summary.requested = { live: 4, staged: 5 };
  });

test("marks the rules of what is live, and shows what it does not admit", async () => {
  const app = start(`${cartPath}/revisions`, {
    ...cartAnswers(live(), [revision(5), revision(4), revision(3)]),
  });
  await app.user.click(await screen.findByTestId("revision-4"));
  const said = check("cartservice", "live", 4);
  const panel = within(await screen.findByTestId("check"));
  const [first, second] = said.rules;
  const card = (id: string | undefined) => panel.getByTestId(`check-${id}`);
  expect(card(first?.rule.id).dataset.proposed).toBe("remove");
  expect(within(card(first?.rule.id)).getByTestId("mark-unused").textContent).toContain(
    "23 of 30 days",
  );
  expect(card(second?.rule.id).dataset.proposed).toBe("keep");
  expect(card(second?.rule.id).querySelectorAll("[data-testid^=mark-]")).toHaveLength(0);
  const fresh = await screen.findByTestId("check-new");
  expect(fresh.textContent).toContain("What changed since revision 4");
  expect(within(fresh).getByTestId("mark-admin-port").textContent).toContain("Port 22");
  expect(
    within(fresh).getByText("Review the next revision").closest("a")?.getAttribute("href"),
  ).toBe(cartPath);
  expect(app.called(`GET ${cartApi}/check`).map((c) => c.search.get("slot"))).toEqual([
    "staged",
    "live",
  ]);

  // A revision in no slot judges nothing.
  await app.user.click(screen.getByTestId("revision-3"));
  expect(screen.queryByTestId("check")).toBeNull();
});

test("says so when the server cannot tell", async () => {
  start(`${cartPath}/revisions`, {
    ...cartAnswers(live(), [revision(4)]),
    [`GET ${cartApi}/check`]: () => new Refused(503, "unavailable", "ClickHouse does not answer"),
  });
  expect((await screen.findByTestId("error")).textContent).toContain("ClickHouse does not answer");
});
