// Greedy completions of prompts by transformers.js: as one left-padded batch, and one by one.
//   node transformers_generate.mjs EXPORT_DIR DTYPE '{"prompts": [..], "max_new_tokens": n}'
// prints {"prompt_ids", "together", "alone": token ids with the prompt's padding; "texts": of the pipeline}.
import { pipeline } from "@huggingface/transformers";
import { local, rows } from "./transformers_local.mjs";

const [directory, dtype, request] = process.argv.slice(2);
const { prompts, max_new_tokens } = JSON.parse(request);
const generator = await pipeline("text-generation", local(directory), { dtype });
const { model, tokenizer } = generator;
tokenizer.padding_side = "left";

async function tokens(texts) {
  const inputs = tokenizer(texts, { padding: true, add_special_tokens: false });
  const found = await model.generate({ ...inputs, max_new_tokens });
  return rows(found).map((row) => row.slice(inputs.input_ids.dims[1]));
}

const alone = [];
for (const prompt of prompts) {
  alone.push(...(await tokens([prompt])));
}
const answers = await generator(prompts, { max_new_tokens, return_full_text: false });
console.log(
  JSON.stringify({
    prompt_ids: prompts.map((prompt) => tokenizer.encode(prompt)),
    together: await tokens(prompts),
    alone,
    texts: answers.map(([answer]) => answer.generated_text),
  }),
);
