// Greedy tokens of a left-padded batch for several exports, none of which needs a tokenizer.
//   node transformers_families.mjs '{"directories": [..], "token_ids": [[..]], "mask": [[..]], "max_new_tokens": n}'
// prints {directory: {"tokens": [[..]], "class": transformers.js's class of the model}}.
import { AutoModelForCausalLM, Tensor } from "@huggingface/transformers";
import { local, rows } from "./transformers_local.mjs";

const { directories, token_ids, mask, max_new_tokens } = JSON.parse(process.argv[2]);
const int64 = (values) =>
  new Tensor("int64", BigInt64Array.from(values.flat(), BigInt), [values.length, values[0].length]);

const found = {};
for (const directory of directories) {
  const model = await AutoModelForCausalLM.from_pretrained(local(directory), { dtype: "fp32" });
  const all = await model.generate({
    inputs: int64(token_ids),
    attention_mask: int64(mask),
    max_new_tokens,
  });
  const tokens = rows(all).map((row) => row.slice(token_ids[0].length));
  found[directory] = { tokens, class: model.constructor.name };
  await model.dispose();
}
console.log(JSON.stringify(found));
