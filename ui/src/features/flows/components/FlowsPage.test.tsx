import { act, screen, waitFor, within } from "@testing-library/react";
import { beforeEach, expect, test } from "vitest";
import { type Call, FakeEvents, Refused, start } from "../../../../test/app";
import { facets, flow } from "../../../../test/fixtures.mjs";
import { status } from "../../../../test/shop";

const pageSize = 200;

/** Answers pages from so many records. */
const pagesOf = (count: number) => (call: Call) => {
  const from = Number(call.search.get("cursor") ?? 0);
  const end = Math.min(count, from + pageSize);
  return {
    flows: Array.from({ length: end - from }, (_, i) => flow(from + i)),
    next: end < count ? String(end) : undefined,
  };
};

const answers = (flows: unknown) => ({
  "GET /api/v1/session": { user: "admin" },
  "GET /api/v1/status": status(),
  "GET /api/v1/workloads": [],
  "GET /api/v1/flows": flows,
  "GET /api/v1/flows/facets": facets(),
});

beforeEach(() => {
  // jsdom lays nothing out: a frame of 600 pixels shows some rows.
  Object.defineProperties(HTMLElement.prototype, {
    clientHeight: { configurable: true, get: () => 600 },
    clientWidth: { configurable: true, get: () => 1000 },
  });
});

test("only the rows in sight are in the page, and older ones are loaded", async () => {
  const app = start("/flows", answers(pagesOf(450)));
  expect((await screen.findAllByTestId("flow-row")).length).toBeLessThan(60);
  expect(app.called("GET /api/v1/flows")[0]?.search.get("filter")).toBe("since=1h");
  await screen.findByText("The newest 200 records");
  await app.user.click(screen.getByTestId("flows-older"));
  await screen.findByText("The newest 400 records");
  await app.user.click(screen.getByTestId("flows-older"));
  await screen.findByText("450 records");
  expect(screen.queryByTestId("flows-older")).toBeNull();
});

test("a filter is in the address; a facet and the window change it", async () => {
  const app = start("/flows?q=verdict%3Daudited", answers(pagesOf(3)));
  await screen.findAllByTestId("flow-row");
  const box = screen.getByTestId<HTMLInputElement>("flow-filter");
  expect(box.value).toBe("verdict=audited");
  const facet = screen.getByTestId("facet-to.port=6379");
  expect(facet.ariaPressed).toBe("false");
  await app.user.click(facet);
  await waitFor(() => expect(box.value).toBe("to.port=6379 verdict=audited"));
  expect((await screen.findByTestId("facet-to.port=6379")).ariaPressed).toBe("true");
  await app.user.selectOptions(screen.getByTestId("flow-window"), "24h");
  await waitFor(() => expect(box.value).toBe("to.port=6379 verdict=audited since=24h"));
  await app.user.clear(box);
  await app.user.type(box, "node=node-1{Enter}");
  await waitFor(() =>
    expect(app.called("GET /api/v1/flows").at(-1)?.search.get("filter")).toBe("node=node-1"),
  );
});

test("what is wrong with a filter is shown at its place", async () => {
  start(
    "/flows?q=%E5%90%8D%20vredict%3Dx",
    answers(
      new Refused(400, "invalid", 'filter: column 3: unknown field "vredict"', {
        field: "filter",
        column: 3,
      }),
    ),
  );
  const error = await screen.findByTestId("filter-error");
  expect(within(error).getByText("vredict=x").tagName).toBe("MARK");
  expect(error.textContent).toContain('Character 3: unknown field "vredict"');
  const box = screen.getByTestId<HTMLInputElement>("flow-filter");
  expect(box.value.slice(box.selectionStart ?? 0, box.selectionEnd ?? 0)).toBe("vredict=x");
});

test("live rows come first, each once, and a problem is told", async () => {
  const app = start("/flows", answers(pagesOf(3)));
  await screen.findAllByTestId("flow-row");
  await app.user.click(screen.getByTestId("flow-live"));
  await screen.findByText("Becoming live…");
  const tail = FakeEvents.last;
  act(() => tail?.say("flows", [flow(2), flow(1), flow(0)]));
  await screen.findByText("Live: records appear as they are stored");
  expect(screen.getAllByTestId("flow-row")).toHaveLength(3);
  act(() => tail?.say("flows", [{ ...flow(100), node: "late" }, flow(101)]));
  expect(await screen.findAllByTestId("flow-row")).toHaveLength(5);
  expect(screen.getAllByTestId("flow-row")[1]?.textContent).toContain("late");
  act(() => tail?.say("problem", { code: "unavailable", message: "ClickHouse does not answer" }));
  expect((await screen.findByTestId("tail-problem")).textContent).toContain("does not answer");
  act(() => tail?.say("flows", []));
  await waitFor(() => expect(screen.queryByTestId("tail-problem")).toBeNull());
  act(() => tail?.say("problem", { code: "invalid", message: "too many to follow" }));
  await screen.findByText("No longer live");
  expect(tail?.readyState).toBe(FakeEvents.CLOSED);
});

test("a row opens to all that is known, by keyboard too", async () => {
  const app = start("/flows", answers(pagesOf(2)));
  const row = (await screen.findAllByTestId("flow-row"))[0] as HTMLElement;
  within(row).getByRole("button").focus();
  await app.user.keyboard("{Enter}");
  const detail = await screen.findByTestId("flow-detail");
  expect(detail.textContent).toContain("denies (no rule matches), revision 2");
  expect(detail.textContent).toContain("tier=db");
});

test("no flow at all says so", async () => {
  start("/flows", answers(pagesOf(0)));
  expect((await screen.findByTestId("flows-none")).textContent).toContain("No flow matches");
});
