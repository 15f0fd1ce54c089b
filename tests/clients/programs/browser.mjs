// A headless Chromium with an empty profile, which asks nobody but `address` for anything.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const QUIET = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/**
 * Calls `visit(page)` and returns its object with "problems" (errors of the page) and "elsewhere" (addresses of
 * other hosts that the page asked for).
 */
export async function inBrowser(executablePath, address, visit) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "tfgpt-chromium-"));
  const viewport = { width: 1000, height: 640 };
  const context = await chromium.launchPersistentContext(profile, { executablePath, viewport, args: QUIET });
  const page = await context.newPage();
  const problems = [];
  const elsewhere = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  context.on("request", (each) => {
    if (!each.url().startsWith(address) && !/^(data|blob):/.test(each.url())) elsewhere.push(each.url());
  });
  try {
    await page.goto(address);
    return { ...(await visit(page)), problems, elsewhere };
  } finally {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
}
