"""Every search of onnxruntime-genai over one graph: greedy, batch, beams, sampling, continued, rewound.

    python genai_search.py EXPORT_DIR GRAPH_FILE REQUEST PADDING_ID

Prints an object of token ids by kind of search; see the keys below.
"""

import json
import sys

import numpy as np
import onnxruntime_genai as og
from genai_session import generate, open_model


def continued(model: og.Model, row: list[int], count: int) -> list[int]:
    """Generates, goes back to where it was, and is given tokens to go on from (a second turn of a chat)."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(row) + count)
    generator = og.Generator(model, params)
    half = len(row) // 2
    generator.append_tokens(np.array([row[:half]], np.int32))
    for _ in range(3):
        generator.generate_next_token()
    generator.rewind_to(half)
    generator.append_tokens(np.array([row[half:]], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return generator.get_sequence(0)[len(row) :].tolist()


def main(export_dir: str, graph_file: str, request: str, padding: str) -> None:
    with open(request) as file:
        values = json.load(file)
    rows, count, padding = values["prompts"], values["num_new_tokens"], int(padding)
    shared = open_model(export_dir, graph_file)
    copied = open_model(export_dir, graph_file, past_present_share_buffer=False)
    found = {"version": og.__version__}
    for name, model in (("shared", shared), ("copied", copied)):
        found[name] = {
            "alone": [generate(model, [row], count)[0] for row in rows],
            "batch": generate(model, rows, count, padding),
            "beams": generate(model, rows[:1], count // 2, num_beams=4, length_penalty=1.0)[0],
            "sampled": [
                generate(model, rows[:1], count, do_sample=True, top_k=5, temperature=1.5, random_seed=seed)[
                    0
                ]
                for seed in (1, 2, 1)
            ],
            "continued": continued(model, rows[0], count),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
