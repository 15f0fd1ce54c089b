"""Optimum's ORTModelForCausalLM over exports of several families, given recorded token ids and masks.

    python optimum_families.py REQUEST      REQUEST: {name: {"export", "token_ids", "mask", "num_new_tokens"}}

Prints {name: {"logits", "left_logits", "greedy", "left_greedy"}}.
"""

import json
import sys

import torch
from optimum.onnxruntime import ORTModelForCausalLM


def states(model, token_ids: list, mask: list, count: int) -> tuple[list, list]:
    """Logits of all positions, and the greedy tokens that follow."""
    token_ids, mask = torch.tensor(token_ids), torch.tensor(mask)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=token_ids, attention_mask=mask, position_ids=positions).logits
    tokens = model.generate(
        input_ids=token_ids,
        attention_mask=mask,
        min_new_tokens=count,
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return logits.tolist(), tokens[:, token_ids.shape[1] :].tolist()


def main(request: str) -> None:
    with open(request, encoding="utf-8") as file:
        cases = json.load(file)
    found = {}
    for name, case in cases.items():
        model = ORTModelForCausalLM.from_pretrained(case["export"])
        token_ids, mask, count = case["token_ids"], case["mask"], case["num_new_tokens"]
        ones = [[1] * len(row) for row in mask]
        padded = [
            [token * kept for token, kept in zip(*each, strict=True)]
            for each in zip(token_ids, mask, strict=True)
        ]
        found[name] = {}
        for prefix, ids, kept in (("", token_ids, ones), ("left_", padded, mask)):
            logits, tokens = states(model, ids, kept, count)
            found[name] |= {f"{prefix}logits": logits, f"{prefix}greedy": tokens}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
