// Drives a real browser through the web UI, one step a line of standard input:
// {"do": name, ...}; answers each with a line {"ok": true, ...} or {"error": text}.
// RINGFENCE_URL and RINGFENCE_PASSWORD say where and how to log in, SHOTS, when it is
// set, where screenshots go.

import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../ui/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const { RINGFENCE_URL: url, RINGFENCE_PASSWORD: password, SHOTS: shots } = process.env;
if (shots) mkdirSync(shots, { recursive: true });

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: "light" });
const page = await context.newPage();
page.setDefaultTimeout(20_000);

/** Script errors and refused resources; any of them fails the step that it happened in. */
const problems = [];
page.on("pageerror", (e) => problems.push(`script error: ${e.message}`));
page.on("console", (m) => {
  if (m.type() === "error" && !/status of 401/.test(m.text())) problems.push(`console: ${m.text()}`);
});

const path = (w) => `${url}/workloads/${w}`;

/** Two animation frames, and no animation under way: what was asked for is on the screen. */
const painted = async () => {
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  await page.waitForFunction(() => document.getAnimations().every((a) => a.playState !== "running"));
};

const steps = {
  async login() {
    await page.goto(url);
    await page.getByTestId("login-user").fill("admin");
    await page.getByTestId("login-password").fill(password);
    await page.getByTestId("login-submit").click();
    await page.getByTestId("status-strip").waitFor();
    return {};
  },

  /** Opens a page and waits for the element that shows it has its content. */
  async open({ path, shows }) {
    await page.goto(url + path);
    await page.getByTestId(shows ?? "status-strip").first().waitFor();
    return {};
  },

  /** Accepts every recommended rule by hand and creates the revision. */
  async review({ workload }) {
    await page.goto(path(workload));
    await page.getByTestId("coverage").waitFor();
    const buttons = page.locator("[data-testid^=rule-][data-testid$=-accept]");
    await buttons.first().waitFor();
    const n = await buttons.count();
    for (let i = 0; i < n; i++) await buttons.nth(i).click();
    await page.getByTestId("btn-create-revision").click();
    await page.getByTestId("revision-created").waitFor();
    return { rules: n };
  },

  /** Presses Audit, Enforce or Roll back, reads the dialog, confirms, and awaits the stage. */
  async press({ action, stage }) {
    await page.getByTestId(`btn-${action}`).click();
    const dialog = page.getByTestId("confirm");
    await page.getByTestId("confirm-ok").waitFor();
    const text = await dialog.innerText();
    await page.getByTestId("confirm-ok").click();
    const last = action === "audit" ? "step-effective" : "step-confirmed";
    await page.locator(`[data-testid=${last}][data-done]`).waitFor();
    await page.locator(`[data-testid=stage-badge][data-direction=ingress][data-stage=${stage}]`).waitFor();
    return { dialog: text };
  },

  /** The rows of the audit view, once it shows one that names text, without a reload. */
  async audit({ workload, text }) {
    await page.goto(`${path(workload)}/audit`);
    await page.getByTestId("audit-row").filter({ hasText: text }).first().waitFor({ timeout: 30_000 });
    return { rows: await page.getByTestId("audit-row").allInnerTexts() };
  },

  /** Asks why a connection to the workload is allowed or denied. */
  async explain({ workload, source, port }) {
    await page.goto(`${path(workload)}/endpoints`);
    await page.getByTestId("explain-source").fill(source);
    await page.getByTestId("explain-port").fill(port);
    await page.getByTestId("btn-explain").click();
    return { text: await page.getByTestId("explain-answer").first().innerText() };
  },

  /** Asks for flows by a filter, until the page shows a text. */
  async flows({ filter, shown }) {
    await page.getByTestId("flow-filter").fill(filter);
    await page.getByTestId("flow-filter").press("Enter");
    await page.getByText(shown, { exact: true }).waitFor();
    const rows = page.getByTestId("flow-row");
    return { first: (await rows.count()) ? await rows.first().innerText() : "" };
  },

  /** Loads older flows, until the page shows a text. */
  async older({ shown }) {
    await page.getByTestId("flows-older").click();
    await page.getByText(shown, { exact: true }).waitFor();
    return {};
  },

  async facet({ term, shown }) {
    await page.getByTestId(`facet-${term}`).click();
    await page.getByText(shown, { exact: true }).waitFor();
    return { filter: await page.getByTestId("flow-filter").inputValue() };
  },

  /** A filter that the server refuses; the browser tells of the answer's status too. */
  async wrong({ filter }) {
    await page.getByTestId("flow-filter").fill(filter);
    await page.getByTestId("flow-filter").press("Enter");
    const text = await page.getByTestId("filter-error").innerText();
    problems.splice(0, problems.length, ...problems.filter((p) => !/status of 400/.test(p)));
    return { text };
  },

  async live() {
    await page.getByTestId("flow-live").click();
    await page.getByText("Live: records appear").waitFor();
    return {};
  },

  /** Waits for a row with a text, without a reload. */
  async row({ text }) {
    await page.getByTestId("flow-row").filter({ hasText: text }).first().waitFor();
    return { rows: await page.getByTestId("flow-row").count() };
  },

  async detail() {
    await page.getByTestId("flow-row").first().getByRole("button").press("Enter");
    return { text: await page.getByTestId("flow-detail").innerText() };
  },

  /** A picture of the page's first screen, or of the element that is named. */
  async shot({ name, scheme, width, of }) {
    if (!shots) return {};
    await page.emulateMedia({ colorScheme: scheme ?? "light", reducedMotion: "reduce" });
    await page.setViewportSize({ width: width ?? 1440, height: 900 });
    await page.evaluate(() => window.scrollTo(0, 0));
    await page.getByTestId("status-strip").getByText("Loading…").waitFor({ state: "hidden" });
    await painted();
    await (of ? page.getByTestId(of) : page).screenshot({ path: `${shots}/${name}.png` });
    await page.setViewportSize({ width: 1440, height: 900 });
    return {};
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...args } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: true, ...(await steps[name](args)) };
    if (problems.length > 0) throw new Error(problems.splice(0).join("; "));
  } catch (e) {
    answer = { error: `${name}: ${e.message}` };
    if (shots) await page.screenshot({ path: `${shots}/failed-${name}.png` }).catch(() => {});
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
