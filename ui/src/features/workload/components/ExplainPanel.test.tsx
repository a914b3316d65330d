import { screen, within } from "@testing-library/react";
import { expect, test } from "vitest";
import { type Call, Refused, start } from "../../../../test/app";
import { cartAnswers, cartPath, cartWorkload } from "../../../../test/shop";

test("asks the server, shows which rule and why not the others, and what it refuses", async () => {
  const app = start(`${cartPath}/endpoints`, {
    ...cartAnswers(cartWorkload()),
    "GET /api/v1/explain": ({ search }: Call) =>
      search.get("port") === "0"
        ? new Refused(400, "invalid", "port 0 is none")
        : {
            connections: [
              {
                source: "world",
                destination: "boutique/Host/cartservice",
                protocol: "TCP",
                port: 7070,
                allowed: false,
                summary: "denied: none matches",
                ingress: {
                  verdict: "deny",
                  reason: "default-deny",
                  summary: "denied: none matches",
                  rules: [
                    {
                      index: 0,
                      id: "r1",
                      sentence: "front may connect",
                      matched: false,
                      why: ["world is no workload"],
                    },
                  ],
                },
              },
            ],
            judgedBy: [],
          },
  });
  const panel = within(await screen.findByTestId("explain"));
  expect(app.called("GET /api/v1/explain")).toEqual([]);
  await app.user.clear(panel.getByTestId("explain-port"));
  await app.user.type(panel.getByTestId("explain-port"), "7070");
  await app.user.selectOptions(panel.getByTestId("explain-slot"), "staged");
  await app.user.click(panel.getByTestId("btn-explain"));
  const answer = await panel.findByTestId("explain-answer");
  for (const said of [
    "Denied",
    "denied: none matches",
    "Rule 1: front may connect",
    "world is no workload",
  ]) {
    expect(answer.textContent).toContain(said);
  }
  expect(Object.fromEntries(app.called("GET /api/v1/explain")[0]?.search ?? [])).toEqual({
    source: "world",
    destination: "boutique/Host/cartservice",
    port: "7070",
    slot: "staged",
  });

  await app.user.clear(panel.getByTestId("explain-port"));
  await app.user.type(panel.getByTestId("explain-port"), "0");
  await app.user.click(panel.getByTestId("btn-explain"));
  expect((await panel.findByTestId("error")).textContent).toContain("port 0 is none");
});
