// The page: reads the form, asks the worker, shows what comes back. See worker.mjs for the model.

const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((each) => [each.id, each]));
// transformers.js's name of each precision and its file in the export, the browser's default first.
const FILES = {
  q8: ["int8", "model_quantized.onnx"],
  q4: ["int4", "model_q4.onnx"],
  fp16: ["fp16", "model_fp16.onnx"],
  fp32: ["fp32", "model.onnx"],
};
const worker = new Worker("worker.mjs", { type: "module" });
const ask = (kind, content) => worker.postMessage({ kind, ...content });

function show(state, { ready = false, running = false, failed = false } = {}) {
  element.state.textContent = state;
  element.state.classList.toggle("failed", failed);
  element.progress.hidden = ready || running || failed;
  element.complete.disabled = !ready;
  element.dtype.disabled = !ready && !failed;
  element.stop.disabled = !running;
}

function load() {
  element.progress.removeAttribute("value");
  show("Loading…");
  ask("load", { dtype: element.dtype.value });
}

const answers = {
  progress({ loaded, total }) {
    element.progress.value = loaded / total;
    show(`Loading ${(loaded / 2 ** 20).toFixed(1)} of ${(total / 2 ** 20).toFixed(1)} MiB…`);
  },
  ready({ context, threads }) {
    element.max_new_tokens.max = context - 1;
    show(`Ready: ${context} tokens of context, ${threads} thread${threads > 1 ? "s" : ""}`, { ready: true });
  },
  token({ text, count, first, rest }) {
    element.completion.textContent = text;
    const speed = count > 1 ? `, then ${((1000 * (count - 1)) / rest).toFixed(1)} tokens per second` : "";
    element.speed.textContent = `${count} token${count > 1 ? "s" : ""}: the first in ${first.toFixed(0)} ms${speed}`;
  },
  done({ reason }) {
    show(reason, { ready: true });
  },
  failed({ message }) {
    show(message, { failed: true });
  },
};
worker.onmessage = ({ data }) => answers[data.kind](data);
worker.onerror = (event) => answers.failed({ message: event.message || "The worker did not start" });

element.dtype.onchange = load;
element.stop.onclick = () => ask("stop");
element.form.onsubmit = (event) => {
  event.preventDefault();
  element.given.textContent = element.prompt.value;
  element.completion.textContent = element.speed.textContent = "";
  show("Writing…", { running: true });
  const number = (name) => Number(element[name].value);
  ask("complete", {
    prompt: element.prompt.value,
    options: {
      max_new_tokens: number("max_new_tokens"),
      do_sample: number("temperature") > 0,
      temperature: number("temperature") || 1,
      top_k: number("top_k"),
    },
  });
};
element.prompt.onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !element.complete.disabled) {
    element.form.requestSubmit();
  }
};

// An export holds some of the precisions.
const there = await Promise.all(
  Object.values(FILES).map(async ([, file]) => (await fetch(`model/onnx/${file}`, { method: "HEAD" })).ok),
);
Object.entries(FILES).forEach(([dtype, [name]], index) => {
  if (there[index]) element.dtype.add(new Option(name, dtype));
});
if (element.dtype.length > 0) load();
else answers.failed({ message: "There is no model/onnx/*.onnx beside this page: give the server an export" });
