"""Greedy tokens by onnxruntime-genai, prompt after prompt, from the graph that genai_config.json names."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai


def main(export_dir, request_path):
    """Prints the answer; a row ends early at the end of the text."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    model, rows = onnxruntime_genai.Model(export_dir), []
    for prompt in request["prompts"]:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt) + request["new_tokens"], do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(np.array([prompt], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        rows.append([int(token) for token in generator.get_sequence(0)[len(prompt) :]])
    print(json.dumps({"token_ids": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
