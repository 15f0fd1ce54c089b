/**
 * Logits of a padded batch, fed in two parts through the cache: the first at once, the second token by token.
 *
 * It stands on nothing but its arguments, so that it runs in Node and, as text, in a page.
 *
 * @param {{Tensor}} ort onnxruntime-node or onnxruntime-web
 * @param {InferenceSession} session of a graph of an export
 * @param {{token_ids: number[][], mask: number[][], split: number}} request rows of one length
 * @returns {Promise<number[]>} every number, row by row, position by position
 */
export async function paddedLogits({ Tensor }, session, { token_ids, mask, split }) {
  const int64 = (rows) =>
    new Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);
  const columns = (rows, start, end) => rows.map((row) => row.slice(start, end));
  const positions = mask.map((row) => {
    let count = 0;
    return row.map((each) => Math.max((count += each) - 1, 0));
  });
  let cache = session.inputMetadata
    .filter(({ name }) => name.startsWith("past_key_values."))
    .map(({ name, type, shape }) => [name, new Tensor(type, [], [mask.length, shape[1], 0, shape[3]])]);
  const logits = mask.map(() => []);
  let start = 0;
  for (let end = split; end <= mask[0].length; end++) {
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
  return logits.flat();
}
