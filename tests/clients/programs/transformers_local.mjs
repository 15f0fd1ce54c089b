// transformers.js reads a directory of this machine, and nothing else.
import path from "node:path";
import { env } from "@huggingface/transformers";

/** The name under which `from_pretrained` finds `directory` from now on. */
export function local(directory) {
  env.allowRemoteModels = false;
  env.localModelPath = path.dirname(directory);
  return path.basename(directory);
}

/** The token ids of a tensor [batch, length], as numbers, row by row. */
export function rows(tensor) {
  return tensor.tolist().map((row) => row.map(Number));
}
