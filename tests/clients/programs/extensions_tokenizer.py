"""tokenizer.onnx and detokenizer.onnx in onnxruntime with onnxruntime-extensions.

    python extensions_tokenizer.py EXPORT_DIR REQUEST      REQUEST: {"texts": [...], "ids": [[id, ...], ...]}

Prints {"ids": [[id, ...], ...], "batch": [[id, ...], ...], "mask": [[0 or 1, ...], ...], "texts": [...]}: ids
of every text given alone, of the first texts given at once, and the texts of the ids.
"""

import json
import sys

import numpy as np
import onnxruntime
import onnxruntime_extensions


def open_graph(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    return onnxruntime.InferenceSession(path, options)


def main(export_dir: str, request: str) -> None:
    with open(request, encoding="utf-8") as file:
        values = json.load(file)
    tokenizer = open_graph(f"{export_dir}/tokenizer.onnx")
    detokenizer = open_graph(f"{export_dir}/detokenizer.onnx")
    batch, mask = tokenizer.run(["input_ids", "attention_mask"], {"input_text": values["texts"][:8]})
    found = {
        "ids": [
            tokenizer.run(["input_ids"], {"input_text": [text]})[0][0].tolist() for text in values["texts"]
        ],
        "batch": batch.tolist(),
        "mask": mask.tolist(),
        "texts": [
            detokenizer.run(["str"], {"ids": np.array([ids], np.int64)})[0][0] for ids in values["ids"]
        ],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
