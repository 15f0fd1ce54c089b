// Recorded texts and ids through the tokenizers of transformers.js.
//   node transformers_tokenizers.mjs DIRECTORY ...       each with a tokenizer and records.json
// prints {directory: {"encoded": [what differs], "decoded": [what differs], "count": n}}.
import fs from "node:fs";
import { AutoTokenizer } from "@huggingface/transformers";
import { local } from "./transformers_local.mjs";

const found = {};
for (const directory of process.argv.slice(2)) {
  const tokenizer = await AutoTokenizer.from_pretrained(local(directory));
  const { encoded, decoded } = JSON.parse(fs.readFileSync(`${directory}/records.json`, "utf8"));
  const ids = encoded.map(({ text }) => tokenizer.encode(text));
  const texts = decoded.map(({ ids }) => tokenizer.decode(ids));
  found[directory] = {
    encoded: encoded.map((each, index) => [each.text, each.ids, ids[index]]).filter(differs),
    decoded: decoded.map((each, index) => [each.ids, each.text, texts[index]]).filter(differs),
    count: encoded.length + decoded.length,
  };
}
console.log(JSON.stringify(found));

function differs([, wanted, found]) {
  return JSON.stringify(wanted) !== JSON.stringify(found);
}
