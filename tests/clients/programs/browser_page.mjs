// A person at the demo page, in a headless Chromium.
//   node browser_page.mjs CHROMIUM ADDRESS '{"prompt", "max_new_tokens", "dtypes": [..], "screenshot": path or null}'
// prints {"default": dtype, "texts": {dtype: completion}, "states": {dtype: state}, "speed", "problems": [..],
// "elsewhere": [addresses of other hosts that were asked for]}.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const [executablePath, address, request] = process.argv.slice(2);
const { prompt, max_new_tokens, dtypes, screenshot } = JSON.parse(request);
const profile = fs.mkdtempSync(path.join(os.tmpdir(), "tfgpt-chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  viewport: { width: 1000, height: 760 },
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
const page = await context.newPage();
const problems = [];
const elsewhere = [];
page.on("pageerror", (error) => problems.push(String(error)));
context.on("request", (each) => {
  if (!each.url().startsWith(address) && !/^(data|blob):/.test(each.url())) elsewhere.push(each.url());
});

const state = page.locator("#state");
async function until(pattern) {
  const failed = page.locator("#state.failed");
  await state.filter({ hasText: pattern }).or(failed).waitFor({ timeout: 120000 });
  const text = await state.textContent();
  if (await failed.count()) throw new Error(`the page says: ${text} ${problems}`);
  return text;
}

const found = { texts: {}, problems, elsewhere };
try {
  await page.goto(address);
  const ready = await until(/^Ready/);
  found.default = await page.locator("#dtype").inputValue();
  found.states = { [found.default]: ready };
  for (const dtype of dtypes) {
    if (dtype !== (await page.locator("#dtype").inputValue())) {
      await page.locator("#dtype").selectOption(dtype);
      found.states[dtype] = await until(/^Ready/);
    }
    await page.locator("#prompt").fill(prompt);
    await page.locator("#max_new_tokens").fill(String(max_new_tokens));
    await page.locator("#complete").click();
    await until(/^(Done|The text ended|The context is full)/);
    found.texts[dtype] = await page.locator("#completion").textContent();
    found.speed = await page.locator("#speed").textContent();
    if (screenshot) await page.screenshot({ path: screenshot });
  }
} finally {
  await context.close();
  fs.rmSync(profile, { recursive: true, force: true });
}
console.log(JSON.stringify(found));
