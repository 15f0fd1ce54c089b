import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("onnx/model.onnx")
new = ids = tokenizer.encode("def main(").ids
past = [each for each in session.get_inputs() if each.name.startswith("past_key_values")]
dtype = np.float16 if past[0].type == "tensor(float16)" else np.float32
cache = {each.name: np.zeros((1, each.shape[1], 0, each.shape[3]), dtype) for each in past}
while len(ids) < 48 and ids[-1] != json.load(open("config.json"))["eos_token_id"]:
    mask, positions = np.ones((1, len(ids)), int), np.arange(len(ids))[None, -len(new) :]
    feeds = {"input_ids": [new], "attention_mask": mask, "position_ids": positions}
    logits, *present = session.run(None, feeds | cache)
    cache, new = dict(zip(cache, present)), [int(logits[0, -1].argmax())]
    ids = ids + new
print(tokenizer.decode(ids))
