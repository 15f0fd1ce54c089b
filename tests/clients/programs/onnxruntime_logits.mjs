// Logits of a padded batch by onnxruntime-node.
//   node onnxruntime_logits.mjs MODEL '{"token_ids": [[..]], "mask": [[..]], "split": n}'
// prints {"logits": as padded_logits.mjs says}.
import * as ort from "onnxruntime-node";
import { paddedLogits } from "./padded_logits.mjs";

const [model, request] = process.argv.slice(2);
const session = await ort.InferenceSession.create(model);
console.log(JSON.stringify({ logits: await paddedLogits(ort, session, JSON.parse(request)) }));
