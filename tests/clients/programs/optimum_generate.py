"""Optimum's ORTModelForCausalLM over one graph of an export, beside PyTorch's model of the same weights.

    python optimum_generate.py EXPORT_DIR GRAPH_FILE MODEL_DIR REQUEST

Prints, for "export" and "torch", token ids of greedy rows alone and left-padded, of beams, logits after
padded prompts, and the texts of transformers' pipeline.
"""

import json
import sys

import torch
import transformers
from optimum.onnxruntime import ORTModelForCausalLM

NUM_BEAMS = 4


def padded(rows: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """Token ids and mask, int64 [rows, width]."""
    width = max(map(len, rows))
    ids, mask = (
        torch.zeros((len(rows), width), dtype=torch.long),
        torch.zeros((len(rows), width), dtype=torch.long),
    )
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if side == "left" else slice(0, len(tokens))
        ids[row, place], mask[row, place] = torch.tensor(tokens), 1
    return {"input_ids": ids, "attention_mask": mask}


def last_logits(model, rows: list[list[int]], side: str) -> list[list[float]]:
    """The logits after each prompt."""
    inputs = padded(rows, side)
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(**inputs, position_ids=positions).logits
    last = [-1 if side == "left" else len(tokens) - 1 for tokens in rows]
    return [logits[row, place].tolist() for row, place in enumerate(last)]


def generate(model, rows: list[list[int]], count: int, **search) -> list[list[int]]:
    """The new tokens of left-padded rows."""
    inputs = padded(rows, "left")
    tokens = model.generate(**inputs, max_new_tokens=count, do_sample=False, pad_token_id=0, **search)
    return tokens[:, inputs["input_ids"].shape[1] :].tolist()


def everything(model, tokenizer, values: dict) -> dict:
    rows, count = values["prompts"], values["num_new_tokens"]
    writer = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    texts = writer(values["texts"], max_new_tokens=count, do_sample=False, batch_size=len(values["texts"]))
    return {
        "alone": [generate(model, [row], count)[0] for row in rows],
        "left": generate(model, rows, count),
        "beams": generate(model, rows, count, num_beams=NUM_BEAMS),
        "logits": {side: last_logits(model, rows, side) for side in ("left", "right")},
        "texts": [each[0]["generated_text"] for each in texts],
    }


def main(export_dir: str, graph_file: str, model_dir: str, request: str) -> None:
    with open(request, encoding="utf-8") as file:
        values = json.load(file)
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(export_dir, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    exported = ORTModelForCausalLM.from_pretrained(export_dir, file_name=graph_file)
    reference = transformers.AutoModelForCausalLM.from_pretrained(model_dir)
    found = {
        "export": everything(exported, tokenizer, values),
        "torch": everything(reference, tokenizer, values),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
