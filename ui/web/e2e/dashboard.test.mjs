// The dashboard in headless Chromium, against a running signet-ui with traffic:
//   SIGNET_DASHBOARD=http://127.0.0.1:PORT SIGNET_DASHBOARD_TOKEN=... npm run e2e
// CHROMIUM names another browser than /usr/bin/chromium; SCREENSHOTS a folder for pictures of what was seen.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

const base = process.env.SIGNET_DASHBOARD;
const token = process.env.SIGNET_DASHBOARD_TOKEN;
const WAIT = { timeout: 20_000 };

let context;
let page;
let profile;
const violations = [];

before(async () => {
  assert.ok(base && token, "set SIGNET_DASHBOARD and SIGNET_DASHBOARD_TOKEN to a running dashboard");
  profile = mkdtempSync(join(tmpdir(), "signet-e2e-"));
  context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
    viewport: { width: 1440, height: 900 },
  });
  page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(WAIT.timeout);
  page.on("console", (message) => {
    if (message.type() === "error" && /Content Security Policy/.test(message.text())) {
      violations.push(message.text());
    }
  });
});

after(async () => {
  await context?.close();
  if (profile) {
    rmSync(profile, { recursive: true, force: true });
  }
});

async function picture(name) {
  if (process.env.SCREENSHOTS) {
    mkdirSync(process.env.SCREENSHOTS, { recursive: true });
    await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`) });
  }
}

const rows = () => page.getByRole("grid", { name: "Decisions, newest first" }).locator("[data-decision]");

test("a visitor without a session is asked for the token", async () => {
  await page.goto(base);
  await page.getByRole("heading", { name: "Sign in to Signet" }).waitFor();
  await picture("login");
});

test("a wrong token is refused with a reason", async () => {
  await page.getByLabel("Dashboard token").fill("not-the-dashboard-token");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("this is not the dashboard token").waitFor();
});

test("the token opens the posture", async () => {
  await page.getByLabel("Dashboard token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("region", { name: "Posture" }).waitFor();
  for (const card of [
    "Encrypted calls",
    "Decisions per second",
    "Denied",
    "Active policy",
    "Oldest SVID",
    "Federation",
  ]) {
    await page.getByRole("region", { name: card, exact: true }).waitFor();
  }
});

test("decisions arrive by themselves", async () => {
  await page.getByTestId("stream-state").getByText("Live").waitFor();
  await rows().first().waitFor();
  const first = await rows().first().getAttribute("id");
  await page.waitForFunction(
    (before) => document.querySelector("[data-decision]")?.id !== before,
    first,
    WAIT,
  );
  await picture("overview");
});

test("a paused list stands still and says how much is new", async () => {
  await page.getByRole("button", { name: "Pause" }).click();
  await page
    .getByTestId("stream-state")
    .getByText(/Paused, [\d,]+ new/)
    .waitFor();
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByTestId("stream-state").getByText("Live").waitFor();
});

test("filters live in the URL", async () => {
  await page.getByRole("radio", { name: "Denied" }).click();
  await page.waitForURL(/decision=deny/);
  await rows().first().waitFor();
  await page.waitForFunction(
    () => [...document.querySelectorAll("[data-decision]")].every((row) => row.dataset.decision === "deny"),
    undefined,
    WAIT,
  );
});

test("a decision explains itself", async () => {
  await rows().first().click();
  const why = page.getByRole("complementary", { name: "Why this decision" });
  await why.getByRole("heading", { name: "Record", exact: true }).waitFor();
  await why
    .getByText(/^spiffe:\/\//)
    .first()
    .waitFor();
  await page.waitForURL(/why=/);
  await picture("why");
  await page.reload();
  await why.getByRole("heading", { name: "Record", exact: true }).waitFor();
  await page.keyboard.press("Escape");
  await why.waitFor({ state: "detached" });
});

test("the list works from the keyboard alone", async () => {
  await page.getByRole("grid", { name: "Decisions, newest first" }).focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.getByRole("complementary", { name: "Why this decision" }).waitFor();
  await page.keyboard.press("Escape");
});

test("signing out ends the session", async () => {
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in to Signet" }).waitFor();
  const status = await page.evaluate(() => fetch("/api/posture").then((answer) => answer.status));
  assert.equal(status, 401);
});

test("nothing broke the content security policy", () => {
  assert.deepEqual(violations, []);
});
