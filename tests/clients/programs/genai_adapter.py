"""A LoRA adapter in onnxruntime-genai: greedy tokens without it, with it, and without it again.

    python genai_adapter.py EXPORT_DIR MATRICES REQUEST      MATRICES: .npz, input name -> matrix

The adapter file is written with onnxruntime's AdapterFormat. Prints {"plain", "adapted", "plain_again"}.
"""

import json
import os
import sys
import tempfile

import numpy as np
import onnxruntime
import onnxruntime_genai as og


def write_adapter(matrices: str, path: str) -> None:
    """The matrices as an .onnx_adapter file."""
    with np.load(matrices) as arrays:
        parameters = {name: onnxruntime.OrtValue.ortvalue_from_numpy(arrays[name]) for name in arrays.files}
        adapter = onnxruntime.AdapterFormat()
        adapter.set_adapter_version(1)
        adapter.set_model_version(1)
        adapter.set_parameters(parameters)
        adapter.export_adapter(path)


def greedy(model: og.Model, row: list[int], count: int, adapters: og.Adapters | None = None) -> list[int]:
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(row) + count)
    generator = og.Generator(model, params)
    if adapters is not None:
        generator.set_active_adapter(adapters, "style")
    generator.append_tokens(np.array([row], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return generator.get_sequence(0)[len(row) :].tolist()


def main(export_dir: str, matrices: str, request: str) -> None:
    with open(request) as file:
        values = json.load(file)
    rows, count = values["prompts"], values["num_new_tokens"]
    model = og.Model(export_dir)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "style.onnx_adapter")
        write_adapter(matrices, path)
        adapters = og.Adapters(model)
        adapters.load(path, "style")
        found = {
            "plain": [greedy(model, row, count) for row in rows],
            "adapted": [greedy(model, row, count, adapters) for row in rows],
            "plain_again": [greedy(model, row, count) for row in rows],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
