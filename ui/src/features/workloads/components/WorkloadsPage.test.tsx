import { act, screen, waitFor, within } from "@testing-library/react";
import { expect, test } from "vitest";
import { FakeEvents, Refused, start } from "../../../../test/app";
import { cartWorkload, status, workloads } from "../../../../test/shop";

const answers = (list: unknown = workloads().map((w) => w.summary)) => ({
  "GET /api/v1/session": { user: "admin" },
  "GET /api/v1/status": status(),
  "GET /api/v1/workloads": list,
});
const row = () => screen.findByTestId("workload-row-boutique-Host-cartservice");

test("an event changes its row and the counts, without a request", async () => {
  const app = start("/workloads", answers());
  await row();
  const asked = app.calls.length;
  const { summary } = cartWorkload();
  act(() =>
    FakeEvents.last?.say("workload", {
      ...summary,
      ingressStage: "enforce",
      requested: { live: 2 },
      effective: { live: 1 },
      denied: 1234,
    }),
  );
  const cells = within(await row());
  await waitFor(() => expect(cells.getByText("1,234")).toBeDefined());
  expect(cells.getAllByTestId("stage-badge").map((b) => b.dataset.stage)).toEqual([
    "enforce",
    "observe",
  ]);
  expect(cells.getByText("revision 2 requested")).toBeDefined();
  expect(screen.getByTestId("filter-enforce").textContent).toContain("1");
  expect(app.calls.length).toBe(asked);
});

test("filters are in the address and are found there again", async () => {
  const app = start("/workloads?ns=tools", answers());
  await screen.findByTestId("workload-row-tools-Host-dns");
  expect(screen.queryByTestId("workload-row-boutique-Host-cartservice")).toBeNull();
  await app.user.selectOptions(screen.getByTestId("workload-namespace"), "");
  await app.user.type(screen.getByTestId("workload-search"), "cart");
  await row();
  await waitFor(() => expect(app.history.location.search).toBe("?q=cart"));
  await app.user.click(screen.getByTestId("filter-enforce"));
  await app.user.click(await screen.findByText("Show all"));
  await screen.findByTestId("workload-row-tools-Host-dns");
});

test("a row leads to its workload, and headers sort", async () => {
  const app = start("/workloads", answers());
  const cells = within(await row());
  await app.user.click(screen.getByRole("button", { name: "Edges" }));
  const rows = screen.getAllByTestId(/^workload-row-/);
  expect(rows[0]?.dataset.testid).toBe("workload-row-boutique-Host-frontend");
  expect(screen.getByRole("columnheader", { name: "Edges" }).ariaSort).toBe("descending");
  await app.user.click(cells.getByText("19,286"));
  await waitFor(() =>
    expect(app.history.location.pathname).toBe("/workloads/boutique/Host/cartservice"),
  );
});

test("no row at all and a failure say so", async () => {
  start("/workloads", answers([]));
  expect(await screen.findByText("No workload yet")).toBeDefined();
});

test("a failure shows the server's words and can be tried again", async () => {
  let broken = true;
  const app = start("/workloads", {
    ...answers(),
    "GET /api/v1/workloads": () =>
      broken
        ? new Refused(400, "invalid", "the list is broken")
        : workloads().map((w) => w.summary),
  });
  expect((await screen.findByTestId("error")).textContent).toContain("the list is broken");
  broken = false;
  await app.user.click(screen.getByRole("button", { name: "Try again" }));
  await row();
});

test("the strip says what is wrong", async () => {
  const s = status();
  start("/workloads", {
    ...answers(),
    "GET /api/v1/status": {
      ...s,
      nodes: s.nodes.map((n, i) => ({ ...n, connected: i === 0, panicked: i === 0 })),
      store: { embedded: true, healthy: false, detail: "no answer" },
      learning: { ...s.learning, lostRecords: 7 },
    },
  });
  expect((await screen.findByTestId("strip-nodes")).textContent).toBe("1 of 2 nodes connected");
  expect(screen.getByTestId("strip-lost").textContent).toBe("7 records lost");
  expect(screen.getByTestId("strip-store").textContent).toBe(
    "ClickHouse does not answer: no answer",
  );
  expect(screen.getByRole("alert").textContent).toContain("node-1");
});
