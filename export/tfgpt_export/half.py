"""Stage 3 in half precision: weights, caches and logits of the graph become float16.

Sums that float16 cannot hold are not made in it: LayerNormalization and RMSNormalization keep their
statistics in float32 (their attribute `stash_type` is 1 where nothing is said), and attention its softmax.
What is added to the scores of padded slots, -1e9 in float32, becomes half of the lowest number that there is.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from tfgpt.errors import InputError

LARGEST = float(np.finfo(np.float16).max)  # 65504
# A score may be added to it and the sum is still a number; its exponential is 0 beside that of any score.
MASKED = -LARGEST / 2
FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def half_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph whose weights are still inputs, with float16 wherever it had float32; `model` is left alone."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for value in (*half.graph.input, *half.graph.output):
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = FLOAT16
    for tensor in half.graph.initializer:
        _halve_constant(tensor)
    for node in half.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _halve_constant(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = FLOAT16
    return half


def half_tensor(name: str, tensor: np.ndarray) -> np.ndarray:
    """A weight in float16, rounded to nearest.

    Raises:
        InputError: a number of it is larger than float16 holds.
    """
    largest = float(np.abs(tensor).max(initial=0.0))
    if largest >= LARGEST + 16:  # half a step above the largest: what rounds down to it is held
        raise InputError(
            f"{name} holds {largest:.4g}, which float16 cannot (it ends at {LARGEST:.0f}): "
            "leave fp16 out of the precisions"
        )
    return tensor.astype(np.float16)


def _halve_constant(tensor: onnx.TensorProto) -> None:
    if tensor.data_type != FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    # The mask's number is the one constant that is out of range.
    values = np.where(np.abs(values) > LARGEST, np.sign(values) * -MASKED, values)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
