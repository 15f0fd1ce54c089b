// Logits of a padded batch, fed in two pieces through the cache, by onnxruntime-node.
//   node onnxruntime_logits.mjs MODEL '{"token_ids": [[..]], "mask": [[..]], "split": n}'
// prints {"logits": [every number, row by row, position by position]}.
import { InferenceSession, Tensor } from "onnxruntime-node";

const [model, request] = process.argv.slice(2);
const { token_ids, mask, split } = JSON.parse(request);
const session = await InferenceSession.create(model);
const int64 = (rows) =>
  new Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);
const positions = mask.map((row) => {
  let count = 0;
  return row.map((each) => Math.max((count += each) - 1, 0));
});
const columns = (rows, start, end) => rows.map((row) => row.slice(start, end));

let cache = session.inputMetadata
  .filter(({ name }) => name.startsWith("past_key_values."))
  .map(({ name, type, shape }) => [name, new Tensor(type, [], [mask.length, shape[1], 0, shape[3]])]);
const logits = mask.map(() => []);
// One token at a time after the split: attention takes several for several rows only while the past is empty.
const ends = [split, ...mask[0].keys()].filter((end) => end >= split).concat(mask[0].length);
let start = 0;
for (const end of new Set(ends)) {
  const { logits: found, ...present } = await session.run({
    input_ids: int64(columns(token_ids, start, end)),
    attention_mask: int64(columns(mask, 0, end)),
    position_ids: int64(columns(positions, start, end)),
    ...Object.fromEntries(cache),
  });
  const size = found.data.length / mask.length;
  logits.forEach((row, index) => row.push(...found.data.subarray(index * size, (index + 1) * size)));
  cache = cache.map(([name]) => [name, present[name.replace("past_key_values", "present")]]);
  start = end;
}
console.log(JSON.stringify({ logits: logits.flat() }));
