"""The stages that make files. Each takes an `Artifact` and returns it with more in it."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from tfgpt.checkpoints.readers import TensorReader
from tfgpt.checkpoints.translate import read_weights
from tfgpt.models.causal_lm import CausalLM
from tfgpt.serving.export_directory import ENGINE_OF_PRECISION, PROMPTS_OF_PRECISION
from tfgpt_export import half
from tfgpt_export.bundle import GRAPHS, SAVED_MODEL
from tfgpt_export.calibrate import Calibration
from tfgpt_export.convert import convert, operator_counts
from tfgpt_export.engine_graph import engine_graph
from tfgpt_export.lowering import PORTABLE
from tfgpt_export.plan import BITS, form_chooser
from tfgpt_export.prompt_graph import prompt_graph
from tfgpt_export.quantize import quantize_graph
from tfgpt_export.recipe import Artifact
from tfgpt_export.saved_model import graph_tokenizer, write_saved_model
from tfgpt_export.trace import trace
from tfgpt_export.weights import write_model


def trace_stage(artifact: Artifact) -> Artifact:
    """Keras model -> TensorFlow function."""
    traced = trace(artifact.config)
    if path := artifact.stage_path("1_trace.pbtxt"):
        path.write_text(str(traced.function.get_concrete_function().graph.as_graph_def()))
    return dataclasses.replace(artifact, traced=traced)


def convert_stage(artifact: Artifact) -> Artifact:
    """TensorFlow function -> ONNX graph without weights."""
    graph = convert(artifact.traced, artifact.config)
    if path := artifact.stage_path("2_convert.onnx"):
        path.write_bytes(graph.SerializeToString())
    return dataclasses.replace(artifact, graph=graph)


def attach_stage(artifact: Artifact) -> Artifact:
    """Graph and checkpoint -> the float32 model."""
    if "fp32" not in artifact.recipe.precisions:
        return artifact
    model = onnx.ModelProto()
    model.CopyFrom(artifact.graph)
    tensors = ((name, _float32(read())) for name, read in _weights(artifact))
    return _write(artifact, "fp32", model, tensors, 4 * _num_parameters(artifact))


def halve_stage(artifact: Artifact) -> Artifact:
    """Graph and checkpoint -> the float16 model."""
    if "fp16" not in artifact.recipe.precisions:
        return artifact
    model = half.half_graph(artifact.graph)
    tensors = ((name, half.half_tensor(name, read())) for name, read in _weights(artifact))
    return _write(artifact, "fp16", model, tensors, 2 * _num_parameters(artifact))


def quantize_stage(artifact: Artifact) -> Artifact:
    """Graph and checkpoint -> the models with 8-bit and 4-bit weights."""
    for precision in BITS:
        if precision in artifact.recipe.precisions:
            artifact = _quantize(artifact, precision)
    return artifact


def _quantize(artifact: Artifact, precision: str) -> Artifact:
    shapes = artifact.traced.weight_shapes
    form_of = form_chooser(precision, artifact.config, artifact.recipe.block_size)
    model, plan = quantize_graph(artifact.graph, shapes, form_of)
    if path := artifact.stage_path(f"4_quantize_{precision}.onnx"):
        path.write_bytes(model.SerializeToString())
    calibration, text = None, artifact.recipe.calibration_tokens
    if text is not None and BITS[precision] < 8:
        model_in_keras = CausalLM.from_pretrained(artifact.model_dir, dtype="float32")
        calibration = Calibration(model_in_keras, np.asarray(text, np.int64), plan.widths(shapes))
    tensors = (
        tensor for name, read in _weights(artifact) for tensor in plan.tensors(name, read, calibration)
    )
    artifact = dataclasses.replace(artifact, plans={**artifact.plans, precision: plan})
    return _write(artifact, precision, model, tensors, plan.num_bytes(shapes))


def portable_stage(artifact: Artifact) -> Artifact:
    """Keras model -> a graph of standard operators alone, and the checkpoint in float32."""
    if not artifact.recipe.portable:
        return artifact
    model = convert(trace(artifact.config, PORTABLE), artifact.config, PORTABLE)
    tensors = ((name, _float32(read())) for name, read in _weights(artifact))
    return _write(artifact, "portable", model, tensors, 4 * _num_parameters(artifact))


def engine_stage(artifact: Artifact) -> Artifact:
    """Each ONNX file -> the graph that our own engine runs, over the same weights.

    A model that is one file is small, and its engine graph is one file too, with the weights in it again:
    onnxruntime reads shared weights from a data file alone. With 8 bits there is one more, for long prompts.
    """
    for precision in artifact.recipe.precisions:
        path = artifact.files[precision]
        model = engine_graph(onnx.load(path, load_external_data=False))
        _write_checked(model, path.with_name(ENGINE_OF_PRECISION[precision]))
        if precision in PROMPTS_OF_PRECISION:
            model = prompt_graph(model, artifact.plans[precision])
            if model is not None:
                _write_checked(model, path.with_name(PROMPTS_OF_PRECISION[precision]))
    return artifact


def _write_checked(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def saved_model_stage(artifact: Artifact) -> Artifact:
    """Checkpoint -> TensorFlow SavedModel."""
    if not artifact.recipe.saved_model:
        return artifact
    path = artifact.output / SAVED_MODEL
    tokenizer, refused = graph_tokenizer(artifact.model_dir)
    write_saved_model(artifact.keras_model(), tokenizer, path)
    files = {**artifact.files, "saved_model": path}
    return dataclasses.replace(artifact, files=files, text_refused=refused)


def _write(artifact: Artifact, precision: str, model: onnx.ModelProto, tensors, num_bytes: int) -> Artifact:
    path = artifact.output / GRAPHS[precision]
    path.parent.mkdir(exist_ok=True)
    write_model(model, tensors, path, num_bytes)
    onnx.checker.check_model(str(path))
    return dataclasses.replace(
        artifact,
        files={**artifact.files, precision: path},
        counts={**artifact.counts, precision: operator_counts(model.graph)},
    )


def _weights(artifact: Artifact) -> Iterator:
    reader = TensorReader(artifact.model_dir)
    return read_weights(reader, artifact.family, artifact.config, artifact.traced.weight_shapes)


def _num_parameters(artifact: Artifact) -> int:
    return sum(math.prod(shape) for shape in artifact.traced.weight_shapes.values())


def _float32(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(np.float32, copy=False)
