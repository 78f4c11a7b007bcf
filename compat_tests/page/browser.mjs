// A page in headless Chromium that fails on whatever it should never do: errors, and requests to anywhere else.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

export async function openBrowser(path) {
  return chromium.launch({ executablePath: path, args: FLAGS });
}

// Runs `use(page)` on a fresh page of `url`; `expected` is what its console may say.
export async function withPage(browser, url, options, use, expected = /^$/) {
  const { colorScheme = "light", width = 1440, height = 900, reducedMotion = "no-preference" } = options;
  const context = await browser.newContext({ viewport: { width, height }, colorScheme, reducedMotion });
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (message) => {
    const text = `${message.text()} ${message.location().url}`;
    if (["error", "warning"].includes(message.type()) && !expected.test(text)) wrong.push(text);
  });
  page.on("pageerror", (error) => wrong.push(error.stack));
  page.on("request", (request) => request.url().startsWith(url) || wrong.push(`asked for ${request.url()}`));
  await page.addInitScript(() => addEventListener("securitypolicyviolation", (event) => console.error(event.violatedDirective)));
  page.setDefaultTimeout(20_000);
  try {
    await page.goto(url);
    await use(page);
  } finally {
    await context.close();
  }
  assert.deepEqual(wrong, []);
}

export const branches = (page) => page.getByRole("treeitem");

// Starts a tree from the prompt box; resolves to its id when its branches are there and idle.
export async function growTree(page, prompt, n = 4) {
  await page.getByLabel("Prompt", { exact: true }).fill(prompt);
  await page.locator("#prompt-n").fill(String(n));
  await page.getByRole("button", { name: "Grow a tree" }).click();
  await page.locator(`#trees [aria-current] .title`, { hasText: prompt.slice(0, 20) }).waitFor();
  await page.waitForFunction((n) => document.querySelectorAll(".branch").length === n + 1 && !document.querySelector(".branch.running"), n);
  return page.locator("#trees [aria-current]").getAttribute("data-tree");
}

export async function until(what, seconds = 15) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const found = await what();
    if (found) return found;
    assert.ok(Date.now() < deadline, `not within ${seconds} s: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}
