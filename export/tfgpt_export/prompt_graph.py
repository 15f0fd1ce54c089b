"""The engine's graph for prompts, where activations are rounded to 8 bits as well: whole numbers all the way.

    MatMulNBits(x, Wq, scales, b)      blocks of weights, each with its scale: one token reads little memory

    s  = max |x| / 127, row by row     here: the products of many tokens are bound by arithmetic
    xq = round(x / s) + 128
    y  = (xq - 128) (Wq - 128) * s * scale + b

A product takes part when all blocks of an output column share one scale (`plan.py` stores 8-bit weights so):
the same bytes, `[out, blocks, bytes]`, are read as a matrix. The head and the lookup stay as they are. A row
is rounded by itself, so no row's numbers depend on the others. Sums are exact, whatever the processor has.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tfgpt_export.lower import MICROSOFT
from tfgpt_export.plan import QuantizationPlan, quantized_name

ZERO_POINT = 128
LEVELS = 127
# Of nothing but zeros: any scale gives zeros again.
SMALLEST = 1e-30
CONSTANTS = {
    "prompt.last_axis": np.array([-1], np.int64),
    "prompt.first_scale": np.array(0, np.int64),
    "prompt.one": np.array(1, np.float32),
    "prompt.per_level": np.array(1 / LEVELS, np.float32),
    "prompt.smallest": np.array(SMALLEST, np.float32),
    "prompt.zero_point": np.array(ZERO_POINT, np.uint8),
}


def prompt_graph(engine: onnx.ModelProto, plan: QuantizationPlan) -> onnx.ModelProto | None:
    """The engine's graph with 8-bit products; its contract and its weights stay as they are.

    Args:
        engine: from `engine_graph`.
        plan: how its weights are stored.

    Returns:
        the graph, or `None` where no product can be one of whole numbers.
    """
    if not plan.by_row:
        return None
    weights = {quantized_name(name, plan.forms[name]) for name in plan.by_row}
    model = onnx.ModelProto()
    model.CopyFrom(engine)
    nodes: list[onnx.NodeProto] = []
    rounded: set[str] = set()  # several products may read the same activations
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and node.input[1] in weights:
            x = node.input[0]
            nodes += [] if x in rounded else _rounded(x)
            rounded.add(x)
            nodes += _product(node, model.graph)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in CONSTANTS.items())
    return model


def _product(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The integer product of rounded activations, and what makes floats of it."""
    x, weight, scales = node.input[:3]
    bias = node.input[5] if len(node.input) > 5 else ""
    size = {each.name: each.i for each in node.attribute}
    shape = f"{weight}.matrix"
    graph.initializer.append(helper.make_tensor(shape, onnx.TensorProto.INT64, [2], [size["N"], size["K"]]))
    name = node.output[0]
    last = f"{name}.scaled" if bias else name
    nodes = [
        helper.make_node("Reshape", [weight, shape], [f"{weight}.rows"]),
        helper.make_node("Transpose", [f"{weight}.rows"], [f"{weight}.columns"], perm=[1, 0]),
        helper.make_node("Gather", [scales, "prompt.first_scale"], [f"{scales}.columns"], axis=1),
        helper.make_node(
            "MatMulIntegerToFloat",
            [
                f"{x}.rounded",
                f"{weight}.columns",
                "prompt.one",
                f"{scales}.columns",
                "prompt.zero_point",
                "prompt.zero_point",
            ],
            [f"{name}.sums"],
            domain=MICROSOFT,
        ),
        helper.make_node("Mul", [f"{name}.sums", f"{x}.scale"], [last]),
    ]
    if bias:
        nodes.append(helper.make_node("Add", [last, bias], [name]))
    return nodes


def _rounded(x: str) -> list[onnx.NodeProto]:
    """Each row by its own largest number."""
    return [
        # One pass each over what is read only, where Abs would write it once more.
        helper.make_node("ReduceMax", [x, "prompt.last_axis"], [f"{x}.most"], keepdims=1),
        helper.make_node("ReduceMin", [x, "prompt.last_axis"], [f"{x}.least"], keepdims=1),
        helper.make_node("Neg", [f"{x}.least"], [f"{x}.most_below"]),
        helper.make_node("Max", [f"{x}.most", f"{x}.most_below", "prompt.smallest"], [f"{x}.largest"]),
        helper.make_node("Mul", [f"{x}.largest", "prompt.per_level"], [f"{x}.scale"]),
        helper.make_node("Div", [x, f"{x}.scale"], [f"{x}.levels"]),
        helper.make_node(
            "QuantizeLinear", [f"{x}.levels", "prompt.one", "prompt.zero_point"], [f"{x}.rounded"]
        ),
    ]
