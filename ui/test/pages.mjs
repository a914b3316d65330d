// Opens every page in chromium, light and dark, wide and narrow: saves a screenshot to
// .shots, runs axe, and fails on serious violations, on anything that the content security
// policy refused, on script errors and on pages wider than the screen.

import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { Mock, password, serve } from "./mock-server.mjs";

/** @import { Page } from "playwright-core" */

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const out = process.env.SHOTS ?? ".shots";
const only = process.argv[2];
const cart = "/workloads/boutique/Host/cartservice";

/** @type {string[]} */
const problems = [];

/** @param {Page} page */
async function login(page) {
  await page.getByTestId("login-password").fill(password);
  await page.getByTestId("login-submit").click();
  await page.getByTestId("status-strip").waitFor();
}

/** @param {Page} page @param {string} name */
async function accept(page, name) {
  await page.goto(name);
  await page.getByTestId("btn-accept-unflagged").click();
  await page.getByTestId("btn-create-revision").click();
  await page.getByTestId("revision-created").waitFor();
}

/** @param {Page} page @param {"audit" | "enforce" | "rollback"} action */
async function press(page, action) {
  await page.getByTestId(`btn-${action}`).click();
  await page.getByTestId("confirm-ok").click();
  await page.getByTestId(action === "audit" ? "step-effective" : "step-confirmed").waitFor();
}

/** What is shown and how to get there; in the order of one story, told to one mock. */
const scenes = /** @type {[name: string, go: (page: Page, mock: Mock) => Promise<unknown>][]} */ ([
  ["login", (page) => page.goto("/").then(() => page.getByTestId("login-submit").waitFor())],
  [
    "login-failed",
    async (page) => {
      await page.getByTestId("login-password").fill("wrong");
      await page.getByTestId("login-submit").click();
      await page.getByTestId("error").waitFor();
    },
  ],
  [
    "workloads",
    async (page) => {
      await login(page);
      await page.getByTestId("workload-row-boutique-Host-cartservice").waitFor();
    },
  ],
  ["workloads-no-match", (page) => page.getByTestId("workload-search").fill("nothing-like-this")],
  ["review", (page) => page.goto(cart).then(() => page.getByTestId("coverage").waitFor())],
  [
    "review-samples",
    async (page) => {
      await page.locator("[data-flagged] [data-testid=samples]").first().click();
      await page.getByTestId("sample").first().waitFor();
    },
  ],
  [
    "editor",
    async (page) => {
      const flagged = page.locator("[data-testid^=rule-][data-flagged]").last();
      await flagged.locator("[data-testid$=-edit]").click();
      await page.getByTestId("editor-add-port").click();
      await page.getByTestId("editor-port").last().fill("99999");
      await page.getByTestId("editor-save").click();
    },
  ],
  [
    "review-decided",
    async (page) => {
      await page.keyboard.press("Escape");
      await page.getByTestId("rule-editor").waitFor({ state: "detached" });
      await page.getByTestId("btn-accept-unflagged").click();
      await page.locator("[data-flagged] [data-testid$=-reject]").first().click();
      await page.locator("[data-flagged] [data-testid$=-accept]").last().click();
      await page.getByTestId("btn-replay").click();
      await page.getByTestId("replay-result").waitFor();
    },
  ],
  [
    "created",
    async (page) => {
      await page.getByTestId("revision-comment").fill("First review, with the shop team");
      await page.getByTestId("btn-create-revision").click();
      await page.getByTestId("revision-created").waitFor();
    },
  ],
  [
    "dialog-audit",
    async (page) => {
      // By keyboard: Escape gives the focus back, and the confirming button has it at first.
      const button = page.getByTestId("btn-audit");
      await button.focus();
      await page.keyboard.press("Enter");
      await page.getByTestId("confirm-ok").waitFor();
      await page.keyboard.press("Escape");
      await page.getByTestId("confirm-ok").waitFor({ state: "detached" });
      await page.waitForFunction(
        () => document.activeElement?.getAttribute("data-testid") === "btn-audit",
      );
      await page.keyboard.press("Enter");
      await page.waitForFunction(
        () => document.activeElement?.getAttribute("data-testid") === "confirm-ok",
      );
    },
  ],
  [
    "audited",
    async (page) => {
      await page.getByTestId("confirm-ok").click();
      await page.getByTestId("step-effective").waitFor();
      await page.getByTestId("tab-audit").click();
      await page.getByTestId("audit-row").first().waitFor();
    },
  ],
  ["audited-grouped", (page) => page.getByTestId("audit-group").selectOption("source")],
  [
    "not-ready",
    async (page, mock) => {
      mock.unlearned = [
        "node-1 has covered 3h of the 168h that are needed: 165h to go",
        "20 of the 168 hours of the week were watched",
      ];
      await page.reload();
      await page.getByTestId("btn-anyway").waitFor();
    },
  ],
  [
    "dialog-anyway",
    async (page) => {
      await page.getByTestId("btn-anyway").click();
      await page.getByTestId("confirm-why").fill("The audit of the shop is tomorrow");
      await page.getByTestId("confirm-would-deny").getByRole("listitem").first().waitFor();
    },
  ],
  [
    "dialog-enforce",
    async (page, mock) => {
      mock.unlearned = [];
      await page.reload();
      await page.getByTestId("btn-enforce").click();
      await page.getByTestId("confirm-would-deny").getByRole("listitem").first().waitFor();
    },
  ],
  [
    "enforced",
    async (page) => {
      await page.getByTestId("confirm-ok").click();
      await page.locator("[data-testid=step-confirmed][data-done]").waitFor();
    },
  ],
  [
    "refused",
    async (page, mock) => {
      mock.fault(`POST /api/v1${cart}/rollback`, {
        status: 409,
        code: "not_ready",
        message: "the slots changed meanwhile; look again before you go on",
        missing: ["node-2 has not reported for 40 seconds"],
      });
      await page.getByTestId("btn-rollback").click();
      await page.getByTestId("confirm-ok").click();
      await page.getByTestId("change-error").waitFor();
      mock.fault(`POST /api/v1${cart}/rollback`);
    },
  ],
  ["dialog-rollback", (page) => page.getByTestId("btn-rollback").click()],
  [
    "rolled-back",
    async (page) => {
      await page.getByTestId("confirm-ok").click();
      await page.locator("[data-testid=step-confirmed][data-done]").waitFor();
      await page.getByTestId("tab-revisions").click();
      await page.getByTestId("revision-2").waitFor();
    },
  ],
  ["revision-diff", (page) => page.getByTestId("revision-1").click()],
  ["endpoints", (page) => page.getByTestId("tab-endpoints").click()],
  [
    "explained",
    async (page) => {
      await page.getByTestId("explain-port").fill("6379");
      await page.getByTestId("btn-explain").click();
      await page.getByTestId("explain-answer").waitFor();
    },
  ],
  [
    "audit-clean",
    async (page) => {
      await accept(page, "/workloads/boutique/Host/redis-cart");
      await press(page, "audit");
      await page.getByTestId("tab-audit").click();
      await page.getByTestId("audit-empty").waitFor();
    },
  ],
  ["dialog-stop-audit", (page) => page.getByTestId("btn-unstage").click()],
  [
    "stopped-audit",
    async (page) => {
      await page.getByTestId("confirm-ok").click();
      await page.getByTestId("step-effective").waitFor();
      await page.getByTestId("btn-unstage").waitFor({ state: "detached" });
      await press(page, "audit");
    },
  ],
  [
    "workloads-mixed",
    async (page, mock) => {
      await accept(page, "/workloads/boutique/Host/paymentservice");
      await press(page, "audit");
      await press(page, "enforce");
      const w = mock.get("currencyservice");
      w.summary.requested = { live: 2 };
      w.summary.effective = { live: 1 };
      mock.get("paymentservice").summary.denied = 37;
      await page.goto("/workloads");
      await page.getByTestId("workload-row-boutique-Host-cartservice").waitFor();
    },
  ],
  [
    "flows",
    async (page) => {
      await page.goto("/flows");
      await page.getByTestId("flow-row").first().waitFor();
    },
  ],
  [
    "flows-live",
    async (page) => {
      await page.getByTestId("flow-live").click();
      await page.getByText("Live: records appear").waitFor();
      await page.getByTestId("flow-live").click();
    },
  ],
  [
    "flow-detail",
    async (page) => {
      await page.getByTestId("flow-row").nth(2).getByRole("button").press("Enter");
      await page.getByTestId("flow-detail").waitFor();
    },
  ],
  [
    "flows-wrong",
    async (page) => {
      await page.keyboard.press("Escape");
      await page.getByTestId("flow-detail").waitFor({ state: "detached" });
      await page.getByTestId("flow-filter").fill("to.port=6379 vredict=audited since=1h");
      await page.keyboard.press("Enter");
      await page.getByTestId("filter-error").waitFor();
    },
  ],
  [
    "flows-none",
    async (page) => {
      await page.getByTestId("flow-filter").fill("node=nobody");
      await page.keyboard.press("Enter");
      await page.getByTestId("flows-none").waitFor();
    },
  ],
  ["activity", (page) => page.goto("/activity")],
  ["nodes", (page) => page.goto("/nodes")],
  [
    "trouble",
    async (page, mock) => {
      Object.assign(mock.status.nodes[1] ?? {}, {
        connected: false,
        error: "policy of boutique/Host/frontend needs 70,412 entries; the table holds 65,536",
      });
      Object.assign(mock.status.nodes[0] ?? {}, { panicked: true });
      mock.status.store = { embedded: true, healthy: false, detail: "no answer for 8 s" };
      mock.status.learning.lostRecords = 1204;
      await page.goto("/nodes");
      await page.getByTestId("node-row-node-2").waitFor();
    },
  ],
  [
    "load-failed",
    async (page, mock) => {
      mock.fault("GET /api/v1/workloads", {
        status: 503,
        code: "unavailable",
        message: "ClickHouse does not answer; check its log",
      });
      await page.goto("/workloads");
      await page.getByTestId("error").waitFor({ timeout: 15_000 });
    },
  ],
  [
    "loading",
    async (page, mock) => {
      mock.fault("GET /api/v1/workloads", "hang");
      await page.goto("/workloads");
    },
  ],
  [
    "empty",
    async (page, mock) => {
      mock.fault("GET /api/v1/workloads");
      mock.empty = true;
      await page.goto("/workloads");
      await page.getByText("No workload yet").waitFor();
    },
  ],
  [
    "not-found",
    async (page) => {
      await page.goto("/workloads/boutique/Host/nobody");
      await page.getByText("There is no workload").waitFor();
    },
  ],
  [
    "session-ended",
    async (page, mock) => {
      await page.goto("/activity");
      await page.getByTestId("activity-row").first().waitFor();
      mock.sessions.clear();
      await page.getByRole("link", { name: "Nodes", exact: true }).click();
      await page.getByTestId("login-submit").waitFor({ timeout: 20_000 });
    },
  ],
  [
    "session-back",
    async (page) => {
      await login(page);
      if (!/\/(nodes|activity)$/.test(new URL(page.url()).pathname)) {
        problems.push(`after the login the page is ${page.url()}`);
      }
    },
  ],
]);

/** @param {Page} page @param {string} where */
async function check(page, where) {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    // @ts-expect-error axe was put there by the line above
    const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
    return violations.map((/** @type {any} */ v) => ({
      impact: v.impact,
      text: `${v.id}, ${v.nodes.length} times, as at ${v.nodes[0].target.join(" ")}`,
    }));
  });
  for (const v of found) {
    const serious = v.impact === "serious" || v.impact === "critical";
    if (serious || process.env.ALL) {
      problems.push(`${where}: axe ${v.impact} ${v.text}`);
    }
  }
  const size = page.viewportSize() ?? { width: 0, height: 0 };
  for (const width of size.width < 600 ? [size.width, 360] : [size.width]) {
    await page.setViewportSize({ ...size, width });
    const wider = await page.evaluate(
      () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
    );
    if (wider > 0) {
      problems.push(`${where}: the page is ${wider} px wider than a screen of ${width}`);
    }
  }
  await page.setViewportSize(size);
}

/** @param {import("playwright-core").Browser} browser @param {"light" | "dark"} scheme @param {number} width */
async function tell(browser, scheme, width) {
  const mock = new Mock();
  const server = await serve(mock);
  const context = await browser.newContext({
    baseURL: server.url,
    colorScheme: scheme,
    viewport: { width, height: width > 600 ? 900 : 844 },
    reducedMotion: "reduce",
  });
  const page = await context.newPage();
  // Axe itself is put in from outside the page's policy; everything else must obey it.
  page.on("console", (m) => {
    if (m.type() === "error" && /Content Security Policy|Refused/i.test(m.text())) {
      problems.push(`${scheme} ${width}: ${m.text()}`);
    }
  });
  page.on("pageerror", (e) => problems.push(`${scheme} ${width}: ${e.message}`));
  for (const [name, go] of scenes) {
    const where = `${name}-${scheme}-${width}`;
    try {
      await go(page, mock);
      await page.waitForTimeout(150);
      await page.evaluate(() => window.scrollTo(0, 0));
      await page.screenshot({ path: `${out}/${where}.png`, fullPage: true });
      await check(page, where);
    } catch (e) {
      problems.push(`${where}: ${e instanceof Error ? e.message : e}`);
      await page.screenshot({ path: `${out}/${where}-failed.png`, fullPage: true });
      break;
    }
  }
  await context.close();
  server.close();
}

mkdirSync(out, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
  ],
});
try {
  for (const scheme of /** @type {const} */ (["light", "dark"])) {
    for (const width of [1440, 390]) {
      if (!only || only === `${scheme}-${width}`) {
        await tell(browser, scheme, width);
      }
    }
  }
} finally {
  await browser.close();
}
console.log(`${scenes.length} scenes, ${problems.length} problems, screenshots in ${out}`);
for (const p of problems) {
  console.log(`- ${p}`);
}
process.exitCode = problems.length > 0 ? 1 : 0;
