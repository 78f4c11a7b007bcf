// node screenshots.mjs CHROMIUM URL FOLDER: pictures of the page over a real run, 1440 and 390 px wide, light and dark.

import { openBrowser, until, withPage, branches } from "./browser.mjs";

const [chromium, url, folder] = process.argv.slice(2);
const post = async (path, body) => {
  const answer = await fetch(url + path, { method: "POST", body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
};

const THOUGHT = { temperature: 1, stop: "\n", max_tokens: 40 };
const WORTH = { sure: 1, likely: 0.7, impossible: 0 };

// The model goes on from a branch n times and judges each step; same seeds, same tree.
async function expand(parent_id, messages, n, seed) {
  const body = { ...THOUGHT, messages, n, seed, ...(parent_id ? { parent_id } : {}) };
  const { choices } = await post("/v1/chat/completions", body);
  for (const choice of choices) {
    const left = choice.message.content.match(/\(left: ([\d /]+)\)/)?.[1];
    if (!left) continue;
    const asked = [{ role: "user", content: `Judge for 24: ${left}` }];
    const judged = await post("/v1/chat/completions", { messages: asked, temperature: 0, max_tokens: 4 });
    await fetch(`${url}/v1/branches/${judged.tree.prompt_branch_id}`, { method: "DELETE" });
    choice.score = WORTH[judged.choices[0].message.content.trim()];
    await post(`/v1/branches/${choice.branch_id}`, { metadata: { score: choice.score } });
  }
  return choices;
}

async function growTree() {
  const first = await expand(null, [{ role: "user", content: "Explore 24: 4 9 10 13" }], 5, 11);
  const good = first.filter((one) => one.score > 0).slice(0, 2);
  const second = [];
  for (const [at, one] of good.entries()) second.push(...(await expand(one.branch_id, [], 3, 5 + at)));
  const best = second.filter((one) => one.score > 0).slice(0, 2);
  const third = [];
  for (const [at, one] of best.entries()) third.push(...(await expand(one.branch_id, [], 2, 7 + at)));
  await post(`/v1/branches/${best[0].branch_id}`, { pinned: true });
  return best[0].branch_id;
}

async function takeTrees(page, name, chosen, isNarrow) {
  await page.locator(`[data-tree]`).filter({ hasText: "Explore 24: 4 9 10 13" }).click();
  await page.locator(`.branch[data-id="${chosen}"]`).waitFor();
  await page.waitForTimeout(300);
  if (isNarrow) await page.screenshot({ path: `${folder}/page-trees-${name}.png`, fullPage: true });
  await page.locator(`.branch[data-id="${chosen}"]`).click();
  await page.getByRole("button", { name: "Continue" }).waitFor();
  await page.waitForTimeout(600);
  await page.mouse.move(2, 2);
  await page.screenshot({ path: `${folder}/page-${isNarrow ? "branch" : "trees"}-${name}.png` });
}

async function takeGame(page, name, isNarrow) {
  await page.getByRole("button", { name: "Game of 24" }).click();
  await page.getByRole("button", { name: "Run both" }).click();
  await until(async () => (await page.locator("#tally").textContent()) !== "", 60);
  await page.waitForTimeout(2500);
  await page.screenshot({ path: `${folder}/page-game-${name}.png`, fullPage: isNarrow });
}

const browser = await openBrowser(chromium);
try {
  const chosen = await growTree();
  for (const width of [1440, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      await withPage(browser, url, { width, height: width === 1440 ? 900 : 844, colorScheme }, async (page) => {
        await takeTrees(page, `${width}-${colorScheme}`, chosen, width < 1440);
        await takeGame(page, `${width}-${colorScheme}`, width < 1440);
      });
    }
  }
} finally {
  await browser.close();
}
