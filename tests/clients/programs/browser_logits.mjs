// Logits of a padded batch by onnxruntime-web itself, in a page of a headless Chromium.
//   node browser_logits.mjs CHROMIUM ADDRESS '{"file", "data": name or null, "token_ids", "mask", "split"}'
// prints {"logits": as padded_logits.mjs says}, and what browser.mjs adds. `file` and `data` are in model/onnx.
import { inBrowser } from "./browser.mjs";
import { paddedLogits } from "./padded_logits.mjs";

const [executable, address, request] = process.argv.slice(2);
const source = `(async ({ file, data, ...batch }) => {
  const ort = await import("${address}vendor/onnxruntime/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = "${address}vendor/onnxruntime/";
  const externalData = data ? [{ path: data, data: "${address}model/onnx/" + data }] : [];
  const session = await ort.InferenceSession.create("${address}model/onnx/" + file, { externalData });
  return (${paddedLogits})(ort, session, batch);
})(${request})`;
const visit = async (page) => ({ logits: await page.evaluate(source) });
console.log(JSON.stringify(await inBrowser(executable, address, visit)));
