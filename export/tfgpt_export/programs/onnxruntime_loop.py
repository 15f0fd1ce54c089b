"""Greedy tokens by plain onnxruntime: a cache that grows, one left-padded batch after the other."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

ROWS_AT_ONCE = 32


def continue_batch(session, prompts, new_tokens):
    """int64 `[rows, new_tokens]`."""
    length = max(map(len, prompts))
    ids = np.array([[0] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = np.array([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    past = {}
    for each in session.get_inputs():
        if each.name.startswith("past_key_values."):
            kind = np.float16 if each.type == "tensor(float16)" else np.float32
            past[each.name] = np.zeros((len(prompts), each.shape[1], 0, each.shape[3]), kind)
    new = []
    while len(new) < new_tokens:
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        logits, *present = session.run(None, feeds | past)
        past = dict(zip(past, present, strict=True))
        ids = logits[:, -1].argmax(axis=-1)[:, None]
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        new.append(ids)
    return np.concatenate(new, axis=1)


def main(export_dir, request_path):
    """Prints the answer."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    path = str(Path(export_dir) / "onnx" / request["file"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    prompts, rows = request["prompts"], []
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        rows += continue_batch(session, prompts[start : start + ROWS_AT_ONCE], request["new_tokens"]).tolist()
    print(json.dumps({"token_ids": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
