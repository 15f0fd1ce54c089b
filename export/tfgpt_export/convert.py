"""Stage 2: the traced function becomes an ONNX graph whose weights are still inputs.

tf2onnx does the translation; `lower.place` puts one operator in place of each marker. What is left to do here
is the contract: names, order and dimensions of inputs and outputs, opset, and the counts of operators.
"""

import collections
import contextlib
import logging
import os

import onnx
from onnx import helper

from tfgpt._version import __version__
from tfgpt.config import ModelConfig
from tfgpt_export import lower, signature
from tfgpt_export.lowering import FUSED, Lowering
from tfgpt_export.trace import Traced

TF2ONNX_OPSET = 18  # the highest that it writes; newer operators are put in by the lowering


class LoweringError(RuntimeError):
    """The graph is not what the model's config says it must be: a defect of the export stage."""


def convert(traced: Traced, config: ModelConfig, lowering: Lowering = FUSED) -> onnx.ModelProto:
    """The graph of a traced model, its weights being graph inputs named as `Traced.weight_shapes` names them.

    Args:
        traced: by `trace`, with the same config and lowering.
        config: the model's.
        lowering: which operators there are.

    Raises:
        LoweringError: a lowered operator is missing, or one too many, or TensorFlow's operators are left.
    """
    import tf2onnx

    concrete = traced.function.get_concrete_function()
    with _quiet("tf2onnx"), _without_copies():
        model, _ = tf2onnx.convert.from_function(
            traced.function,
            traced.specs,
            opset=min(lowering.versions(config).opset, TF2ONNX_OPSET),
            custom_op_handlers={lower.MARKER: (lower.place, [])},
            shape_override=_marked_shapes(concrete.graph),
        )
    graph_inputs, graph_outputs = traced.task.inputs(config), traced.task.outputs(config)
    renamed = {
        tensor.op.name: wanted.name for tensor, wanted in zip(concrete.inputs, graph_inputs, strict=True)
    }
    renamed |= {
        tensor.name: wanted.name for tensor, wanted in zip(concrete.outputs, graph_outputs, strict=True)
    }
    renamed |= _take_weights(model.graph)
    _rename(model.graph, renamed)
    _state_contract(model.graph, graph_inputs, graph_outputs, traced.weight_shapes)
    has_cache = not set(signature.past_tensors(config)).isdisjoint(graph_inputs)
    _state_versions(model, lowering, config, has_cache)
    _check_operators(model)
    in_head = traced.task.head_operators
    expected = lowering.counts(config).items()
    check_counts(model.graph, {name: number + in_head.get(name, 0) for name, number in expected})
    return model


def operator_counts(graph: onnx.GraphProto) -> dict[str, int]:
    """Operators of a graph, the most frequent first."""
    return dict(collections.Counter(node.op_type for node in graph.node).most_common())


def check_counts(graph: onnx.GraphProto, expected: dict[str, int]) -> None:
    """Raises `LoweringError` unless each operator of `expected` occurs exactly that often."""
    found = operator_counts(graph)
    for operator, number in expected.items():
        if found.get(operator, 0) != number:
            raise LoweringError(f"the graph has {found.get(operator, 0)} {operator} nodes, expected {number}")


def _marked_shapes(graph) -> dict[str, list[int]]:
    """What each marker makes: the converter would know nothing of it."""
    made = (out for op in graph.get_operations() if op.type == lower.MARKER for out in op.outputs)
    return {each.name: each.shape.as_list() for each in made if each.shape.rank is not None}


def _check_operators(model: onnx.ModelProto) -> None:
    """The converter leaves what it cannot translate where it is, and says so in a log."""
    version = next(each.version for each in model.opset_import if not each.domain)
    for node in model.graph.node:
        if not node.domain and not onnx.defs.has(node.op_type, version):
            raise LoweringError(
                f"found {node.op_type} ({node.name}), which is no operator of opset {version}: compute it in "
                "another way, or make it a named operation"
            )


def _take_weights(graph: onnx.GraphProto) -> dict[str, str]:
    """Takes the weights' nodes out: what each was called within the graph -> the weight's name."""
    names = {}
    for node in [each for each in graph.node if each.op_type == lower.WEIGHT]:
        names[node.output[0]] = node.attribute[0].s.decode()
        graph.node.remove(node)
    return names


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    # A name of TensorFlow's may carry its output number, or not.
    names = names | {f"{name}:0": new for name, new in names.items()}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _state_contract(graph, graph_inputs, graph_outputs, weight_shapes) -> None:
    weights = [signature.Tensor(name, "float32", shape) for name, shape in weight_shapes.items()]
    for field, tensors in ((graph.input, (*graph_inputs, *weights)), (graph.output, graph_outputs)):
        del field[:]
        field.extend(_value_info(tensor) for tensor in tensors)
    # tf2onnx's guesses of the shapes between, with dimensions named unk__N: the runtime infers its own.
    del graph.value_info[:]
    graph.name = "tfgpt"
    graph.ClearField("doc_string")  # the name of a function that TensorFlow numbers by all made before it


def _value_info(tensor: signature.Tensor) -> onnx.ValueInfoProto:
    kinds = {"int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}
    return helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], list(tensor.dims))


def _state_versions(model: onnx.ModelProto, lowering: Lowering, config: ModelConfig, has_cache: bool) -> None:
    versions = lowering.versions(config)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", versions.opset))
    model.ir_version = versions.ir
    model.producer_name, model.producer_version, model.doc_string = "tfgpt", __version__, ""
    if lowering.is_fused:
        model.opset_import.append(helper.make_opsetid(lower.MICROSOFT, 1))
    if lowering.is_fused and has_cache:
        # The attention operator writes new slots in place when past and present are bound to one buffer.
        helper.set_model_props(model, {"tfgpt.shared_cache": "1"})


@contextlib.contextmanager
def _without_copies():
    # tf2onnx copies the graph before each of its optimizers, to go on with it should one fail: a quarter of
    # its time, for a graph of which nobody would know that it was left as it was.
    name = "TF2ONNX_CATCH_ERRORS"
    before = os.environ.get(name)
    os.environ[name] = "FALSE"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _quiet(name: str):
    # What tf2onnx cannot translate is found in the graph; what it cannot infer the contract states.
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
