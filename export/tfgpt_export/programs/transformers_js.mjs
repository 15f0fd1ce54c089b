// Greedy tokens by @huggingface/transformers in Node, one prompt after the other.
//   node transformers_js.mjs EXPORT_DIR REQUEST.json FOLDER_WITH_NODE_MODULES
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";

const [exportDir, requestPath, folder] = process.argv.slice(2);
const { AutoModelForCausalLM, Tensor, env } = createRequire(join(folder, "package.json"))("@huggingface/transformers");
const DTYPES = { fp32: "fp32", fp16: "fp16", int8: "q8", int4: "q4" };
const request = JSON.parse(readFileSync(requestPath, "utf8"));

env.allowRemoteModels = false;
env.localModelPath = dirname(exportDir);
const model = await AutoModelForCausalLM.from_pretrained(basename(exportDir), { dtype: DTYPES[request.precision] });
const rows = [];
for (const prompt of request.prompts) {
  const shape = [1, prompt.length];
  const output = await model.generate({
    inputs: new Tensor("int64", BigInt64Array.from(prompt, BigInt), shape),
    attention_mask: new Tensor("int64", new BigInt64Array(prompt.length).fill(1n), shape),
    max_new_tokens: request.new_tokens,
    do_sample: false,
  });
  rows.push(Array.from(output.data, Number).slice(prompt.length));
}
console.log(JSON.stringify({ token_ids: rows }));
