// node scenarios.mjs CHROMIUM URL SCENARIO [KEY]: one thing a person does with the page, to its end.

import assert from "node:assert/strict";
import { branches, growTree, openBrowser, until, withPage } from "./browser.mjs";

const [chromium, url, scenario, key] = process.argv.slice(2);
const api = async (path, options = {}) => (await fetch(url + path, options)).json();
const post = (path, body) => api(path, { method: "POST", body: JSON.stringify(body) });
const shown = (tree) => api(`/v1/trees/${tree}`);

const scenarios = {
  async fork_by_clicking(browser) {
    await withPage(browser, url, {}, async (page) => {
      const tree = await growTree(page, "Explore 24: 4 9 10 13");
      const id = await branches(page).nth(1).getAttribute("data-id");
      await branches(page).nth(1).click();
      await page.locator("#fork-n").fill("3");
      await page.getByRole("button", { name: "Fork" }).click();
      await until(async () => (await branches(page).count()) === 8);
      // The server says the same: three idle children behind one prompt branch that added nothing.
      const all = await until(async () => {
        const { branches } = await shown(tree);
        return branches.every((one) => one.status === "idle") && branches;
      });
      const joint = all.filter((one) => one.parent_id === id);
      assert.deepEqual(joint.map((one) => [one.kind, one.own_tokens]), [["prompt", 0]]);
      assert.equal(all.filter((one) => one.parent_id === joint[0].id).length, 3);

      await page.getByRole("button", { name: "Continue" }).click();
      await until(async () => (await branches(page).count()) === 9);
      await page.getByLabel("Next turn").fill("Judge for 24: 4 6 13");
      await page.getByRole("button", { name: "Continue" }).click();
      await page.getByRole("treeitem", { name: /^(sure|likely|impossible)/ }).waitFor();

      await page.getByRole("button", { name: "Pin", exact: true }).click();
      await page.getByRole("button", { name: "Unpin" }).waitFor();
      assert.equal((await api(`/v1/branches/${id}`)).pinned, true);
      await page.getByRole("button", { name: "Delete" }).click();
      await until(async () => (await branches(page).count()) === 4);
      assert.equal((await api(`/v1/branches/${id}`)).error.code, "branch_not_found");
    });
  },

  async a_branch_tells_its_numbers(browser) {
    await withPage(browser, url, {}, async (page) => {
      await growTree(page, "Explore 24: 3 3 4 5", 2);
      await branches(page).nth(1).click();
      const now = await api(`/v1/branches/${await branches(page).nth(1).getAttribute("data-id")}`);
      const facts = page.locator(".facts");
      await facts.getByText(`${now.pages.shared} shared, ${now.pages.owned} own`).waitFor();
      await facts.getByText(`${now.cached_tokens} tokens not computed again`).waitFor();
      assert.match(await facts.textContent(), /Forked in[\d.]+ [µm]s/);
      assert.equal(await page.locator(".text .own").textContent(), now.text.trim());
      // A score that somebody else notes colours the branch at once.
      await post(`/v1/branches/${now.id}`, { metadata: { score: 0.25, visits: 7 } });
      await facts.getByText("0.25").waitFor();
      const box = branches(page).nth(1);
      await until(async () => (await box.getAttribute("class")).includes("scored"));
      assert.equal(await box.evaluate((node) => node.style.getPropertyValue("--score")), "25%");
    });
  },

  async a_search_is_watched_to_its_end(browser) {
    await withPage(browser, url, {}, async (page) => {
      const sent = page.waitForRequest((request) => request.url().endsWith("/v1/search"));
      await page.getByRole("button", { name: "Game of 24" }).click();
      await page.locator("#puzzle-numbers").fill("5 6 7 12");
      await page.getByRole("button", { name: "Run both" }).click();
      const body = JSON.parse((await sent).postData());
      const search = page.getByRole("article", { name: "Tree search" });
      await search.getByText("running").waitFor();
      await until(async () => (await branches(page).count()) > 3, 60);
      await search.getByText("solved", { exact: true }).waitFor({ timeout: 90_000 });
      const answer = await search.locator(".answer").textContent();
      const [, expression] = answer.match(/Answer: ([\d +\-*/()]+) = 24/);
      assert.equal(Function(`return ${expression}`)(), 24);
      assert.equal(await page.locator(".branch.solved").count(), 1);
      assert.ok((await page.locator(".branch.freed").count()) > 0);
      assert.match(await page.locator("#tally").textContent(), /tree search 1 of 1/);
      // The same search asked for without the page: the same answer, the same tokens generated.
      const again = await post("/v1/search", { ...body, stream: false });
      assert.equal(again.result.text.trim(), answer);
      const counted = await search.locator(".counters").textContent();
      assert.ok(counted.includes(`Generated${again.result.tokens.generated.toLocaleString("en")}`), counted);
    });
  },

  async the_keyboard_reaches_everything(browser) {
    await withPage(browser, url, {}, async (page) => {
      await growTree(page, "Explore 24: 2 8 10 12", 3);
      await page.reload();
      await until(async () => (await branches(page).count()) === 4);
      const name = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent);
      const stops = [];
      const most = 40 + (await page.locator("#trees button").count());
      await page.keyboard.press("Tab");
      while (!(await page.evaluate(() => document.activeElement.matches(".branch")))) {
        stops.push(await name());
        assert.ok(stops.length < most, stops.join(" | "));
        await page.keyboard.press("Tab");
      }
      for (const wanted of [/Skip to the tree/, /Trees/, /Game of 24/, /Switch to dark/, /Grow a tree/]) {
        assert.ok(stops.some((stop) => wanted.test(stop)), `${wanted} in ${stops.join(" | ")}`);
      }
      assert.match(await name(), /^Explore 24/);
      assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement.querySelector(".ring")).stroke), "none");
      const at = () => page.evaluate(() => [...document.querySelectorAll(".branch")].indexOf(document.activeElement));
      for (const [press, index] of [["ArrowRight", 1], ["ArrowDown", 2], ["ArrowDown", 3], ["ArrowUp", 2], ["ArrowLeft", 0], ["End", 3], ["Home", 0], ["ArrowRight", 1]]) {
        await page.keyboard.press(press);
        assert.equal(await at(), index, press);
      }
      await page.keyboard.press("Enter");
      await page.getByRole("button", { name: "Continue" }).waitFor();
      for (let presses = 0; !(await page.evaluate(() => document.activeElement.id === "continue")); presses++) {
        assert.ok(presses < 20);
        await page.keyboard.press("Tab");
      }
      await page.keyboard.press("Enter");
      await until(async () => (await branches(page).count()) === 5);
      await branches(page).nth(1).focus();
      await page.keyboard.press("Escape");
      await until(async () => !(await page.locator("#inspector").isVisible()));
    });
  },

  async text_is_never_markup(browser) {
    const hostile = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> &amp; <b>bold</b>';
    await withPage(browser, url, {}, async (page) => {
      await growTree(page, hostile, 2);
      await branches(page).first().click();
      assert.equal(await page.locator(".text .own").textContent(), hostile);
      assert.equal(await page.locator("#inspector img, #inspector b, #trees img, .branch img, main script").count(), 0);
      assert.equal(await page.evaluate(() => window.hacked), undefined);
      assert.ok((await page.locator("#trees [aria-current] .title").textContent()).startsWith("<img src=x"));
    });
  },

  async others_requests_are_seen_while_they_run(browser) {
    await withPage(browser, url, {}, async (page) => {
      const { tree } = await post("/v1/completions", { prompt: "watched", max_tokens: 1, ignore_eos: true });
      await page.locator(`[data-tree="${tree.tree_id}"]`).click();
      await until(async () => (await branches(page).count()) === 2);
      const body = { prompt: "", parent_id: tree.prompt_branch_id, max_tokens: 1500, ignore_eos: true, temperature: 1, logit_bias: {} };
      const done = post("/v1/completions", body);
      const running = page.locator(".branch.running");
      await running.waitFor();
      await running.click({ force: true });
      const length = async () => (await page.locator(".text .own").textContent()).length;
      const first = await until(length);
      assert.ok((await until(async () => (await length()) > first && length())) > first);
      const { choices } = await done;
      await until(async () => (await page.locator(".branch.running").count()) === 0);
      const whole = await api(`/v1/branches/${choices[0].branch_id}`);
      const lines = (text) => text.split("\n").map((line) => line.trimEnd()).filter(Boolean);
      const roles = new Set(["system", "user", "assistant", "tool", "model"]);
      assert.deepEqual(lines(await page.locator(".text .own").textContent()), lines(whole.text).filter((line) => !roles.has(line.trim())));
    });
  },

  async a_break_in_the_line_loses_nothing(browser) {
    await withPage(browser, url, {}, async (page) => {
      const tree = await growTree(page, "Explore 24: 1 4 6 13", 2);
      await page.context().setOffline(true);
      const above = await branches(page).nth(1).getAttribute("data-id");
      await post("/v1/chat/completions", { messages: [], parent_id: above, n: 3, stop: "\n", max_tokens: 30 });
      await page.context().setOffline(false);
      await until(async () => (await branches(page).count()) === 6);
      assert.equal((await shown(tree)).branches.filter((one) => one.kind === "completion").length, 5);
    }, /ERR_INTERNET_DISCONNECTED/);
  },

  async it_fits_a_phone_and_both_themes(browser) {
    await withPage(browser, url, { width: 390, height: 844, colorScheme: "dark", reducedMotion: "reduce" }, async (page) => {
      const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
      assert.equal(await theme(), "dark");
      await growTree(page, "Explore 24: 6 7 8 10", 3);
      await branches(page).nth(2).click();
      assert.ok(await page.getByRole("button", { name: "Continue" }).isVisible());
      const [box] = [await branches(page).nth(2).boundingBox()];
      assert.ok(box.y >= 0 && box.y < 300, "what is chosen stays in sight");
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
      assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
      await page.getByRole("button", { name: "Close" }).click();
      await page.evaluate(() => scrollTo(0, 0));
      await page.getByRole("button", { name: "Switch to light" }).click();
      assert.equal(await theme(), "light");
      await page.reload();
      assert.equal(await theme(), "light");
    });
  },

  async answers_are_checked_by_arithmetic(browser) {
    await withPage(browser, url, {}, async (page) => {
      const values = await page.evaluate(async () => {
        const { check, evaluate } = await import("/page/puzzle.js");
        const draw = (n) => Math.floor(Math.random() * n);
        const make = (depth) => (depth === 0 || draw(4) === 0 ? String(1 + draw(13)) : `(${make(depth - 1)} ${"+-*/"[draw(4)]} ${make(depth - 1)})`);
        const made = Array.from({ length: 300 }, () => make(4)).map((text) => [text, evaluate(text)]);
        const verdicts = ["Answer: (10 - 4) * (13 - 9) = 24", "Answer: 4 + 9 + 10 + 13 = 24", "Answer: 4 * 6 = 24", "no", "Answer: (4 = 24"];
        return { made, verdicts: verdicts.map((text) => check(text, [4, 9, 10, 13])) };
      });
      for (const [text, value] of values.made) {
        const right = Function(`return ${text}`)();
        assert.ok(Number.isFinite(right) ? Math.abs(value - right) < 1e-9 : value === null, text);
      }
      assert.deepEqual(values.verdicts.map(({ solved }) => solved), [true, false, false, false, false]);
    });
  },

  async a_key_is_asked_for(browser) {
    await withPage(browser, url, {}, async (page) => {
      const dialog = page.getByRole("dialog");
      await dialog.waitFor();
      await page.getByLabel("Key", { exact: true }).fill("not the key");
      await page.getByRole("button", { name: "Use it" }).click();
      await until(async () => dialog.isVisible());
      await page.getByLabel("Key", { exact: true }).fill(key);
      await page.getByRole("button", { name: "Use it" }).click();
      await growTree(page, "Explore 24: 1 6 11 12", 2);
      assert.equal(await dialog.isVisible(), false);
      assert.deepEqual(await page.evaluate(() => [Object.values(sessionStorage), Object.values(localStorage)]), [[key], []]);
    }, /401/);
  },

  async an_empty_server_says_what_to_do(browser) {
    await withPage(browser, url, {}, async (page) => {
      await page.getByText("Nothing has grown yet").waitFor();
      await page.getByRole("button", { name: "Try an example" }).click();
      await until(async () => (await branches(page).count()) === 5);
      assert.equal(await page.getByText("Nothing has grown yet").isVisible(), false);
    });
  },
};

const browser = await openBrowser(chromium);
try {
  await scenarios[scenario](browser);
} finally {
  await browser.close();
}
console.log("all is well");
