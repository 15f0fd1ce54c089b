// A conversation through the chat template of an export, by transformers.js.
//   node transformers_chat.mjs EXPORT_DIR '{"messages": [..], "max_new_tokens": n}'
// prints {"prompt": the template's text, "prompt_ids", "answer_ids", "answer": the assistant's message}.
import { pipeline } from "@huggingface/transformers";
import { local, rows } from "./transformers_local.mjs";

const [directory, request] = process.argv.slice(2);
const { messages, max_new_tokens } = JSON.parse(request);
const generator = await pipeline("text-generation", local(directory), { dtype: "fp32" });
const choices = { add_generation_prompt: true, tokenize: false };
const prompt = generator.tokenizer.apply_chat_template(messages, choices);
const inputs = generator.tokenizer([prompt], { add_special_tokens: false });
const [prompt_ids] = rows(inputs.input_ids);
const [all] = rows(await generator.model.generate({ ...inputs, max_new_tokens }));
const [{ generated_text }] = await generator(messages, { max_new_tokens });
console.log(
  JSON.stringify({
    prompt,
    prompt_ids,
    answer_ids: all.slice(prompt_ids.length),
    answer: generated_text.at(-1),
  }),
);
