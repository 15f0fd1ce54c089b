"""Stage 4: weight-only quantization. Every large matrix product reads its weight in blocks of small numbers.

    MatMul(x, W) + b            ->  MatMulNBits(x, Wq, scales, b)
    Transpose(table), MatMul    ->  MatMulNBits(x, table_q, scales)              the tied head
    Gather(table, ids)          ->  GatherBlockQuantized(table_q, ids, scales)   the same bytes, stored once

`blocks.py` has the layout. With 8 bits the blocks of an output column share one scale, but for the head and
the table: `prompt_graph.py` reads such a weight as one matrix. Activations stay float32 in the graph; the
kernel (accuracy level 4) rounds each block of a row to 8 bits by itself, so no row's numbers depend on the
other rows of its batch.
"""

from collections.abc import Callable

import onnx
from onnx import helper

from tfgpt_export import signature
from tfgpt_export.blocks import BlockFormat
from tfgpt_export.lower import MICROSOFT
from tfgpt_export.plan import QuantizationPlan, quantized_name, scales_name

ACCURACY_LEVEL = 4  # 8-bit integer products


def quantize_graph(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], form_of: Callable[[str], BlockFormat]
):
    """Rewrites a graph whose weights are still inputs.

    Args:
        model: from `convert`; not changed.
        shapes: of the weights by name.
        form_of: how the weight of this name shall be stored, from `plan.form_chooser`.

    Returns:
        the new graph and the `QuantizationPlan` for its weights.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    rewriter = _Rewriter(quantized.graph, shapes, form_of)
    rewriter.run()
    return quantized, rewriter.plan


class _Rewriter:
    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]], form_of):
        self.graph, self.shapes, self.form_of = graph, shapes, form_of
        self.plan = QuantizationPlan()
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
            if node.op_type == "MatMul" and node.input[1] in self.shapes:
                self._product(node, node.input[1])
            elif node.op_type == "MatMul" and transposed.get(node.input[1]) in self.shapes:
                self._tied_head(node, transposed[node.input[1]])
            elif node.op_type == "Gather" and node.input[1] == signature.TOKEN_INPUTS[0].name:
                self._token_lookup(node, node.input[0])
        nodes = []
        for node in self.graph.node:
            nodes += self.replacement.get(node.output[0], [node])
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._drop_inputs()

    def _product(self, node: onnx.NodeProto, weight: str) -> None:
        self.plan.forms[weight] = self.form_of(weight)
        self.plan.transposed.add(weight)
        form, width = self.plan.forms[weight], self.shapes[weight][0]
        is_in_head = not weight.startswith("decoder/")
        if form.bits == 8 and width % form.block_size == 0 and not is_in_head:
            self.plan.by_row.add(weight)
        bias = self._bias_after(node)
        output = node.output[0] if bias is None else bias.output[0]
        # The product stands where the addition stood: its bias must be one of the weights, so order holds.
        new = self._matmul_nbits(
            node, weight, self.shapes[weight], output, None if bias is None else bias.input[1]
        )
        self.replacement[node.output[0]] = [new]
        if bias is not None:
            self.replacement[bias.output[0]] = []

    def _tied_head(self, node: onnx.NodeProto, table: str) -> None:
        if not self._has_whole_blocks(table):
            return  # it is looked up in float32, and the head reads the same numbers
        self.plan.forms[table] = self.form_of(table)
        new = self._matmul_nbits(node, table, self.shapes[table][::-1], node.output[0], None)
        self.replacement[node.output[0]] = [new]
        self.replacement[node.input[1]] = []

    def _token_lookup(self, node: onnx.NodeProto, table: str) -> None:
        if self._has_whole_blocks(table):
            self.plan.forms[table] = self.form_of(table)
            self.replacement[node.output[0]] = self._gather(node, table)

    def _has_whole_blocks(self, table: str) -> bool:
        return self.shapes[table][1] % self.form_of(table).block_size == 0

    def _bias_after(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        consumers = self.consumers.get(node.output[0], [])
        if len(consumers) == 1 and consumers[0].op_type == "Add" and consumers[0].input[1] in self.shapes:
            return consumers[0]
        return None

    def _matmul_nbits(self, node, weight, shape: tuple[int, int], output, bias) -> onnx.NodeProto:
        form = self.plan.forms[weight]
        inputs = [node.input[0], quantized_name(weight, form), scales_name(weight)]
        return helper.make_node(
            "MatMulNBits",
            inputs if bias is None else [*inputs, "", "", bias],
            [output],
            name=node.name,
            domain=MICROSOFT,
            K=shape[0],
            N=shape[1],
            bits=form.bits,
            block_size=form.block_size,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _gather(self, node: onnx.NodeProto, table: str) -> list[onnx.NodeProto]:
        """Rows of the table out of the head's blocks: `[rows, blocks, bytes]` seen as `[rows, all bytes]`."""
        form, (rows, width) = self.plan.forms[table], self.shapes[table]
        packed = quantized_name(table, form)
        flat, shape = f"{packed}.rows", f"{packed}.shape"
        dims = [rows, width * form.bits // 8]
        self.graph.initializer.append(helper.make_tensor(shape, onnx.TensorProto.INT64, [2], dims))
        return [
            helper.make_node("Reshape", [packed, shape], [flat], name=flat),
            helper.make_node(
                "GatherBlockQuantized",
                [flat, node.input[1], scales_name(table)],
                list(node.output),
                name=node.name,
                domain=MICROSOFT,
                bits=form.bits,
                block_size=form.block_size,
                gather_axis=0,
                quantize_axis=1,
            ),
        ]

    def _drop_inputs(self) -> None:
        kept = [each for each in self.graph.input if each.name not in self.plan.forms]
        del self.graph.input[:]
        self.graph.input.extend(kept)
