import fs from "node:fs";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { Tokenizer } from "@huggingface/tokenizers";

const read = (name) => JSON.parse(fs.readFileSync(name, "utf8"));
const tokenizer = new Tokenizer(read("tokenizer.json"), read("tokenizer_config.json"));
const session = await InferenceSession.create("onnx/model.onnx");
const int64 = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
const past = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values"));
const empty = ({ name, type, shape }) => [name, new Tensor(type, [], [1, shape[1], 0, shape[3]])];

let cache = past.map(empty);
let seen = 0; // tokens whose keys and values the cache holds
const ids = tokenizer.encode("def main(").ids;
while (ids.length < 48 && ids.at(-1) !== read("config.json").eos_token_id) {
  const [fresh, positions] = [ids.slice(seen), [...ids.keys()].slice(seen)];
  const mask = int64(ids.map(() => 1));
  const feeds = { input_ids: int64(fresh), attention_mask: mask, position_ids: int64(positions) };
  const { logits, ...present } = await session.run({ ...feeds, ...Object.fromEntries(cache) });
  cache = past.map(({ name }) => [name, present[name.replace("past_key_values", "present")]]);
  seen = ids.length;
  const last = logits.data.subarray(-logits.dims[2]);
  ids.push(last.reduce((best, logit, id) => (logit > last[best] ? id : best), 0));
}
console.log(tokenizer.decode(ids));
