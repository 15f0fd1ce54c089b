"""What the programs of onnxruntime-genai share: one export opened in one precision, and one generate."""

import json

import numpy as np
import onnxruntime_genai as og


def open_model(export_dir: str, graph_file: str, **search) -> og.Model:
    """The model of genai_config.json, with another of the export's graphs and other search options."""
    config = og.Config(export_dir)
    overlay = {"model": {"decoder": {"filename": f"onnx/{graph_file}"}}, "search": search}
    config.overlay(json.dumps(overlay))
    return og.Model(config)


def generate(
    model: og.Model, rows: list[list[int]], count: int, padding: int = 0, **search
) -> list[list[int]]:
    """The next `count` tokens of every row; shorter rows are padded on the right, as genai wants them."""
    width = max(map(len, rows))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=width + count, batch_size=len(rows), **search)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array([row + [padding] * (width - len(row)) for row in rows], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(row)[width:].tolist() for row in range(len(rows))]
