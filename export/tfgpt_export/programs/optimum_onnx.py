"""Greedy tokens by optimum-onnx's ORTModelForCausalLM and its `generate`, in left-padded batches."""

import json
import sys
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForCausalLM

ROWS_AT_ONCE = 32


def main(export_dir, request_path):
    """Prints the answer; a row ends early at the end of the text."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    model = ORTModelForCausalLM.from_pretrained(export_dir, subfolder="onnx", file_name=request["file"])
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    prompts, rows = request["prompts"], []
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        batch = prompts[start : start + ROWS_AT_ONCE]
        length = max(map(len, batch))
        ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in batch])
        options = {"max_new_tokens": request["new_tokens"], "do_sample": False, "pad_token_id": 0}
        found = model.generate(input_ids=ids, attention_mask=mask, **options)
        rows += [_until_the_end(row, ends) for row in found[:, length:].tolist()]
    print(json.dumps({"token_ids": rows}))


def _until_the_end(row, ends):
    place = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: place + 1]


if __name__ == "__main__":
    main(*sys.argv[1:])
