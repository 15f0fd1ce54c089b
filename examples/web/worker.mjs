// The model, in a thread of its own so that the page stays alive: transformers.js on onnxruntime-web.
//
//   page  -> worker   load {dtype}     complete {prompt, options}     stop
//   page <-  worker   progress {loaded, total}     ready {context, threads}
//                     token {text, count, first, rest} (milliseconds)     done {reason}     failed {message}
import {
  BaseStreamer,
  InterruptableStoppingCriteria,
  env,
  pipeline,
} from "./vendor/transformers/transformers.min.js";

// Everything is served beside the page: no hub, no CDN.
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = new URL(".", import.meta.url).pathname; // a whole address would not count as local
// The HTTP cache asks whether a file has changed; the library's own would keep an older export's.
env.useBrowserCache = env.useWasmCache = false;
// The build for WebAssembly alone is half as large as the library's default, which also holds WebGPU.
const runtime = new URL("vendor/onnxruntime/ort-wasm-simd-threaded", import.meta.url).href;
env.backends.onnx.wasm.wasmPaths = { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` };
// Threads need a page that is isolated from others; serve.py sends the headers for that.
env.backends.onnx.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;

const stopping = new InterruptableStoppingCriteria();
let generator;
const answer = (kind, content) => self.postMessage({ kind, ...content });

const requests = {
  async load({ dtype }) {
    await generator?.dispose();
    const progress_callback = ({ status, loaded, total }) => {
      if (status === "progress_total" && total > 0) answer("progress", { loaded, total });
    };
    generator = await pipeline("text-generation", "model", { dtype, device: "wasm", progress_callback });
    breathe(generator.model);
    answer("ready", { context: contextLength(), threads: env.backends.onnx.wasm.numThreads });
  },

  async complete({ prompt, options }) {
    const room = contextLength() - generator.tokenizer.encode(prompt).length;
    if (room < 1) {
      answer("done", { reason: `The prompt fills the context of ${contextLength()} tokens: shorten it` });
      return;
    }
    stopping.reset();
    const max_new_tokens = Math.min(options.max_new_tokens, room);
    const streamer = new Streamer(generator.tokenizer);
    await generator(prompt, { ...options, max_new_tokens, streamer, stopping_criteria: stopping });
    const reasons = [
      [stopping.interrupted, "Stopped"],
      [streamer.ids.length < max_new_tokens, "The text ended"],
      [max_new_tokens < options.max_new_tokens, "The context is full"],
    ];
    answer("done", { reason: (reasons.find(([holds]) => holds) ?? [true, "Done"])[1] });
  },

  stop() {
    stopping.interrupt();
  },
};

self.onmessage = async ({ data }) => {
  try {
    await requests[data.kind](data);
  } catch (error) {
    answer("failed", { message: error.message ?? String(error) });
  }
};

/** Tells the page the text so far after every token. */
class Streamer extends BaseStreamer {
  constructor(tokenizer) {
    super();
    this.tokenizer = tokenizer;
    this.ids = [];
    this.start = performance.now();
  }

  put([ids]) {
    // The first call brings the prompt.
    if (this.prompted) this.ids.push(...ids.map(Number));
    this.prompted = true;
    if (this.ids.length === 0) return;
    const now = performance.now();
    this.first ??= now;
    answer("token", {
      text: this.tokenizer.decode(this.ids, { skip_special_tokens: true }),
      count: this.ids.length,
      first: this.first - this.start,
      rest: now - this.first,
    });
  }

  end() {}
}

/** Lets the worker read its messages, "stop" among them, before each token. */
function breathe(model) {
  const { port1, port2 } = new MessageChannel();
  const forward = model.forward.bind(model);
  model.forward = async (inputs) => {
    await new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(null);
    });
    return forward(inputs);
  };
}

/** As config.json of each family names it. */
function contextLength() {
  const { n_positions, max_position_embeddings } = generator.model.config;
  return n_positions ?? max_position_embeddings;
}
