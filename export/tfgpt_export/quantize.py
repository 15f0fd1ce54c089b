"""Stage 4: weight-only 8 bits. Every large matrix product reads its weight in blocks of 8-bit numbers.

    MatMul(x, W) + b            ->  MatMulNBits(x, Wq, scales, b)
    Transpose(table), MatMul    ->  MatMulNBits(x, table_q, scales)              the tied head
    Gather(table, ids)          ->  GatherBlockQuantized(table_q, ids, scales)   the same bytes, stored once

A block is `block_size` numbers along the input axis with one float32 scale: q = round(w / scale) + 128 with
scale = max |w| / 127. Activations stay float32 in the graph; the kernel (accuracy level 4) rounds each block
of a row to 8 bits by itself, so no row's numbers depend on the other rows of its batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from tfgpt_export.lower import MICROSOFT

ZERO_POINT = 128
ACCURACY_LEVEL = 4  # 8-bit integer products


@dataclass
class QuantizationPlan:
    """Which weights are stored in blocks, and how.

    `transposed`: weights `[in, out]` that are stored by output column, `[out, blocks, block_size]`.
    `rows`: tables `[rows, in]` that are stored by row already.
    `also_float`: tables that are looked up in float32 as well, since their rows are not whole blocks.
    """

    block_size: int
    transposed: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)
    also_float: set[str] = field(default_factory=set)

    def tensors(self, name: str, read: Callable[[], np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """The initializers that stand for one weight."""
        weight = read()
        if name not in self.transposed | self.rows or name in self.also_float:
            yield name, weight
        if name not in self.transposed | self.rows:
            return
        quantized, scales = quantize_blocks(weight.T if name in self.transposed else weight, self.block_size)
        yield quantized_name(name), quantized
        yield scales_name(name), scales


def quantized_name(name: str) -> str:
    """The initializer with a weight's 8-bit numbers."""
    return f"{name}.q8"


def scales_name(name: str) -> str:
    """The initializer with a weight's scales."""
    return f"{name}.scales"


def quantize_blocks(weight: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit quantization by blocks along the last axis.

    Args:
        weight: float `[rows, in]`; `in` is padded with zeros to whole blocks.

    Returns:
        uint8 `[rows, blocks, block_size]` and float32 scales `[rows, blocks]`.
    """
    rows, width = weight.shape
    num_blocks = -(-width // block_size)
    padded = np.zeros((rows, num_blocks * block_size), np.float32)
    padded[:, :width] = weight
    blocks = padded.reshape(rows, num_blocks, block_size)
    scales = np.abs(blocks).max(axis=2) / 127.0
    divisor = np.where(scales == 0, 1.0, scales)[:, :, None]
    np.divide(blocks, divisor, out=blocks)
    np.rint(blocks, out=blocks)
    blocks += ZERO_POINT
    return blocks.astype(np.uint8), scales.astype(np.float32)


def default_block_size(hidden_dim: int) -> int:
    """The largest of 128, 64 and 32 that divides the width of the token table, or else 32."""
    return next((size for size in (128, 64, 32) if hidden_dim % size == 0), 32)


def quantize_graph(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], block_size: int):
    """Rewrites a graph whose weights are still inputs.

    Args:
        model: from `convert`; not changed.
        shapes: of the weights by name.

    Returns:
        the new graph and the `QuantizationPlan` for its weights.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    rewriter = _Rewriter(quantized.graph, shapes, QuantizationPlan(block_size))
    rewriter.run()
    return quantized, rewriter.plan


class _Rewriter:
    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]], plan: QuantizationPlan):
        self.graph, self.shapes, self.plan = graph, shapes, plan
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.replacement: dict[str, list[onnx.NodeProto]] = {}  # by the first output of the node replaced

    def run(self) -> None:
        transposed = {
            node.output[0]: node.input[0] for node in self.graph.node if node.op_type == "Transpose"
        }
        for node in self.graph.node:
            if node.op_type != "MatMul":
                continue
            if node.input[1] in self.shapes:
                self._product(node, node.input[1])
            elif transposed.get(node.input[1]) in self.shapes:
                self._tied_head(node, transposed[node.input[1]])
        nodes = []
        for node in self.graph.node:
            nodes += self.replacement.get(node.output[0], [node])
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._drop_inputs()

    def _product(self, node: onnx.NodeProto, weight: str) -> None:
        width, units = self.shapes[weight]
        self.plan.transposed.add(weight)
        bias = self._bias_after(node)
        output = node.output[0] if bias is None else bias.output[0]
        # The product stands where the addition stood: its bias must be one of the weights, so order holds.
        new = self._matmul_nbits(node, weight, width, units, output, None if bias is None else bias.input[1])
        self.replacement[node.output[0]] = [new]
        if bias is not None:
            self.replacement[bias.output[0]] = []

    def _tied_head(self, node: onnx.NodeProto, table: str) -> None:
        units, width = self.shapes[table]
        self.plan.rows.add(table)
        self.replacement[node.output[0]] = [
            self._matmul_nbits(node, table, width, units, node.output[0], None)
        ]
        self.replacement[node.input[1]] = []
        lookups = [consumer for consumer in self.consumers[table] if consumer.op_type == "Gather"]
        if width % self.plan.block_size:
            self.plan.also_float.add(table)
            return
        for lookup in lookups:
            self.replacement[lookup.output[0]] = self._gather(lookup, table, units, width)

    def _bias_after(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        consumers = self.consumers.get(node.output[0], [])
        if len(consumers) == 1 and consumers[0].op_type == "Add" and consumers[0].input[1] in self.shapes:
            return consumers[0]
        return None

    def _matmul_nbits(self, node, weight, width, units, output, bias) -> onnx.NodeProto:
        inputs = [node.input[0], quantized_name(weight), scales_name(weight)]
        return helper.make_node(
            "MatMulNBits",
            inputs if bias is None else [*inputs, "", "", bias],
            [output],
            name=node.name,
            domain=MICROSOFT,
            K=width,
            N=units,
            bits=8,
            block_size=self.plan.block_size,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _gather(self, node: onnx.NodeProto, table: str, rows: int, width: int) -> list[onnx.NodeProto]:
        """Rows of the table out of the head's blocks: `[rows, blocks, block_size]` seen as `[rows, in]`."""
        flat, shape = f"{quantized_name(table)}.rows", f"{quantized_name(table)}.shape"
        self.graph.initializer.append(helper.make_tensor(shape, onnx.TensorProto.INT64, [2], [rows, width]))
        return [
            helper.make_node("Reshape", [quantized_name(table), shape], [flat], name=flat),
            helper.make_node(
                "GatherBlockQuantized",
                [flat, node.input[1], scales_name(table)],
                list(node.output),
                name=node.name,
                domain=MICROSOFT,
                bits=8,
                block_size=self.plan.block_size,
                gather_axis=0,
                quantize_axis=1,
            ),
        ]

    def _drop_inputs(self) -> None:
        replaced = (self.plan.transposed | self.plan.rows) - self.plan.also_float
        kept = [each for each in self.graph.input if each.name not in replaced]
        del self.graph.input[:]
        self.graph.input.extend(kept)
