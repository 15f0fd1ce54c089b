// A person at the demo page, in a headless Chromium.
//   node browser_page.mjs CHROMIUM ADDRESS '{"prompt", "max_new_tokens", "dtypes": [..], "screenshot": path}'
// prints {"dtypes": those offered, "chosen": the one chosen, "completions": [text for each of `dtypes`],
// "ready": [state after loading], "stopped": {"state", "speed"}}, and what browser.mjs adds.
import { inBrowser } from "./browser.mjs";

const [executable, address, request] = process.argv.slice(2);
const { prompt, max_new_tokens, dtypes, screenshot } = JSON.parse(request);

async function visit(page) {
  const at = Object.fromEntries(
    ["state", "dtype", "prompt", "max_new_tokens", "temperature", "complete", "completion", "speed", "stop"].map(
      (id) => [id, page.locator(`#${id}`)],
    ),
  );

  /** Waits for a state, and returns its text; a failure that the page shows is an error. */
  async function until(pattern) {
    const failed = page.locator("#state.failed");
    await at.state.filter({ hasText: pattern }).or(failed).waitFor({ timeout: 120000 });
    if (await failed.count()) throw new Error(`the page says: ${await failed.textContent()}`);
    return at.state.textContent();
  }

  const ready = [await until(/^Ready/)];
  const offered = await at.dtype.locator("option").evaluateAll((all) => all.map((each) => each.value));
  const chosen = await at.dtype.inputValue();
  const completions = [];
  for (const dtype of dtypes) {
    if (dtype !== (await at.dtype.inputValue())) {
      await at.dtype.selectOption(dtype);
      ready.push(await until(/^Ready/));
    }
    await at.prompt.fill(prompt);
    await at.max_new_tokens.fill(String(max_new_tokens));
    await at.complete.click();
    await until(/^(Done|The text ended|The context is full)/);
    completions.push(await at.completion.textContent());
  }
  if (screenshot) await page.screenshot({ path: screenshot });

  // A small model may be done before the click, so it gets some tries.
  await at.max_new_tokens.fill("100");
  await at.temperature.fill("1.5");
  let state = "";
  for (let tries = 0; tries < 8 && state !== "Stopped"; tries++) {
    await at.complete.click();
    await at.speed.filter({ hasText: "token" }).waitFor();
    await at.stop.click({ timeout: 1000 }).catch(() => {});
    state = await until(/^(Stopped|Done|The text ended|The context is full)/);
  }
  return { dtypes: offered, chosen, completions, ready, stopped: { state, speed: await at.speed.textContent() } };
}

console.log(JSON.stringify(await inBrowser(executable, address, visit)));
