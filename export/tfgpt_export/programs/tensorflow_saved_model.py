"""Greedy tokens by TensorFlow alone: the SavedModel's `cached_step`, in left-padded batches."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

ROWS_AT_ONCE = 32


def continue_batch(step, prompts, new_tokens):
    """int64 `[rows, new_tokens]`."""
    length = max(map(len, prompts))
    ids = np.array([[0] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = np.array([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    layers, _, heads, _, width = step.structured_input_signature[1]["past_keys"].shape
    keys = values = tf.zeros((layers, len(prompts), heads, 0, width))
    new = []
    while len(new) < new_tokens:
        found = step(
            input_ids=tf.constant(ids), attention_mask=tf.constant(mask), past_keys=keys, past_values=values
        )
        keys, values = found["present_keys"], found["present_values"]
        ids = found["logits"].numpy()[:, -1].argmax(axis=-1)[:, None]
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        new.append(ids)
    return np.concatenate(new, axis=1)


def main(export_dir, request_path):
    """Prints the answer."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    model = tf.saved_model.load(str(Path(export_dir) / "saved_model" / "1"))
    prompts, rows = request["prompts"], []
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        batch = prompts[start : start + ROWS_AT_ONCE]
        rows += continue_batch(model.signatures["cached_step"], batch, request["new_tokens"]).tolist()
    print(json.dumps({"token_ids": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
