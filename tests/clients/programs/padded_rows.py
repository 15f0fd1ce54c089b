"""Greedy tokens and prompt logits of one graph in plain onnxruntime, rows alone and padded at either side.

    python padded_rows.py GRAPH REQUEST      REQUEST: {"prompts": [[id, ...], ...], "num_new_tokens": n}

Prints {"tokens": {side: [[id, ...], ...]}, "logits": {side: [[row's last logits], ...]}} for the sides "none"
(every row by itself), "left" and "right" (one batch), and "left_alone" (padded as in "left", but by itself).
"""

import json
import sys

import numpy as np
import onnxruntime

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def padded(rows: list[list[int]], side: str) -> tuple[np.ndarray, np.ndarray]:
    """int64 [rows, width] token ids and mask."""
    width = max(map(len, rows))
    ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if side == "left" else slice(0, len(tokens))
        ids[row, place], mask[row, place] = tokens, 1
    return ids, mask


def generate(session, ids, mask, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The next `count` tokens [rows, count], and the logits after each prompt [rows, vocabulary]."""
    past = session.get_inputs()[3:]
    cache = [np.zeros((len(ids), each.shape[1], 0, each.shape[3]), FLOATS[each.type]) for each in past]
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    # With padding on the right a row's last token is not in the last column.
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    tokens, first = [], None
    for _ in range(count):
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        feeds |= {each.name: array for each, array in zip(past, cache, strict=True)}
        logits, *cache = session.run(None, feeds)
        after = logits[np.arange(len(ids)), last]
        first = after if first is None else first
        ids = after.argmax(axis=-1)[:, None]
        tokens.append(ids)
        positions = mask.sum(axis=1)[:, None]
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        last = 0
    return np.concatenate(tokens, axis=1), first


def main(graph: str, request: str) -> None:
    with open(request) as file:
        values = json.load(file)
    rows, count = values["prompts"], values["num_new_tokens"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options)
    left = padded(rows, "left")
    batches = {
        "none": [padded([row], "left") for row in rows],
        "left": [left],
        "left_alone": [(left[0][row : row + 1], left[1][row : row + 1]) for row in range(len(rows))],
        "right": [padded(rows, "right")],
    }
    found = {}
    for side, inputs in batches.items():
        parts = [generate(session, *arrays, count) for arrays in inputs]
        found[side] = [np.concatenate(each) for each in zip(*parts, strict=True)]
    print(
        json.dumps(
            {
                "tokens": {side: tokens.tolist() for side, (tokens, _) in found.items()},
                "logits": {side: logits.astype(float).tolist() for side, (_, logits) in found.items()},
                "version": onnxruntime.__version__,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
