"""The graph that our own engine runs: rows of one cache that start and end by themselves, without padding.

    IN   input_ids, position_ids         int64  [1, tokens]          new tokens of all rows, row after row
    IN   token_of_slot                   int64  [rows, chunk, 2]     (0, token) that stands in each slot
    IN   slot_of_token                   int64  [1, tokens, 2]       (row, place in its chunk) of each token
    IN   seqlens_k, query_seqlens        int32  [rows]               tokens in the cache - 1; new ones, 0 idle
    IN   total_sequence_length           int32  []                   at least the most tokens in any row
    IN   logits_indices                  int64  [wanted]             the tokens whose logits are wanted
    IN   past_key_values.{i}.key|value   float  [rows, kv_heads, capacity, head_dim]
    OUT  logits                          float  [1, wanted, vocabulary]
    OUT  present.{i}.key|value           float  [rows, kv_heads, capacity, head_dim]     the same memory

Three rows, of which one reads a prompt of 5, one decodes and one is idle:

    tokens         a b c d e X                     products, norms and lookups see 6 tokens and no padding
    slots          a b c d e / X . . . . / . . . . .       attention sees [3, 5]; it skips the empty ones

It is made from the common graph (`signature.py`) of any precision; both share one data file. Attention reads
through `GatherND`, its lengths are inputs instead of coming from a mask, and what comes after the last
layer's attention sees the wanted tokens alone: of a prompt that is one.
Rotary angles are looked up before their operator, which by itself takes no more tokens, of all rows together,
than the model has positions.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tfgpt_export import signature
from tfgpt_export.convert import LoweringError

ATTENTION, ROTARY = "GroupQueryAttention", "RotaryEmbedding"
ANY_LENGTH, FIRST_POSITION = "any_length", "first_position"
# Places of GroupQueryAttention's inputs.
LAST_SLOT, NUM_SLOTS, BIAS, QUERY_LENGTHS = 5, 6, 10, 16
PRODUCTS = ("MatMul", "MatMulNBits", "Gemm")
# Operators that make each token's row of its rows alone, with tokens in the second axis in and out.
ROW_BY_ROW = {
    *("MatMul", "MatMulNBits", "Add", "Cast", "Gelu", "FastGelu", "Relu"),
    *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
}
ROWS, CHUNK, TOKENS, WANTED, CAPACITY = "rows", "chunk", "tokens", "wanted", "capacity"
INPUTS = (
    signature.Tensor("input_ids", "int64", (1, TOKENS)),
    signature.Tensor("position_ids", "int64", (1, TOKENS)),
    signature.Tensor("token_of_slot", "int64", (ROWS, CHUNK, 2)),
    signature.Tensor("slot_of_token", "int64", (1, TOKENS, 2)),
    signature.Tensor("seqlens_k", "int32", (ROWS,)),
    signature.Tensor("query_seqlens", "int32", (ROWS,)),
    signature.Tensor("total_sequence_length", "int32", ()),
    signature.Tensor("logits_indices", "int64", (WANTED,)),
)


def engine_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The engine's graph of a model in the common form; weights, inside or beside it, stay as they are.

    Raises:
        LoweringError: attention is not one operator, or the head is no product.
    """
    engine = onnx.ModelProto()
    engine.CopyFrom(model)
    graph = engine.graph
    nodes = []
    for node in graph.node:
        nodes += _attention(node) if node.op_type == ATTENTION else [node]
    if len(nodes) == len(graph.node):
        raise LoweringError(f"found no {ATTENTION} in the graph, expected one for each layer")
    nodes = _with_angles(graph, nodes)
    head = head_of(nodes)
    if head is None:
        raise LoweringError(f"found no head before the logits, expected one of {', '.join(PRODUCTS)}")
    nodes = _wanted_early(nodes, head)
    del graph.node[:]
    graph.node.extend(_needed(nodes, {each.name for each in graph.output}))
    _state_contract(graph)
    helper.set_model_props(engine, {"tfgpt.engine": "1"})
    return engine


def _attention(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Tokens into the slots of their rows, attention with lengths as inputs, and back."""
    attention = onnx.NodeProto()
    attention.CopyFrom(node)
    scattered = []
    for place, name in enumerate(node.input[:3]):
        if name:
            attention.input[place] = f"{name}.slots"
            scattered.append(_gather(name, "token_of_slot", attention.input[place]))
    inputs = [*attention.input, *[""] * (QUERY_LENGTHS + 1 - len(attention.input))]
    inputs[LAST_SLOT], inputs[NUM_SLOTS] = "seqlens_k", "total_sequence_length"
    inputs[BIAS], inputs[QUERY_LENGTHS] = "", "query_seqlens"
    attention.output[0] = f"{node.output[0]}.slots"
    del attention.input[:]
    attention.input.extend(inputs)
    return [*scattered, attention, _gather(attention.output[0], "slot_of_token", node.output[0])]


def _gather(tensor: str, indices: str, output: str) -> onnx.NodeProto:
    return helper.make_node("GatherND", [tensor, indices], [output], name=output)


def _with_angles(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Rotary operators get the angles of the tokens, looked up once for all layers, in the tokens' order."""
    lookups, rotated = {}, []
    for node in nodes:
        if node.op_type == ROTARY:
            node, (x, positions, *tables) = _copied(node), node.input
            flat, found = f"{positions}.flat", [f"{table}.of_tokens" for table in tables]
            lookups[flat] = helper.make_node("Reshape", [positions, ANY_LENGTH], [flat], name=flat)
            for table, name in zip(tables, found, strict=True):
                lookups[name] = helper.make_node("Gather", [table, flat], [name], name=name)
            del node.input[:]
            node.input.extend([x, FIRST_POSITION, *found])
        rotated.append(node)
    if lookups:
        for name, number in ((ANY_LENGTH, -1), (FIRST_POSITION, 0)):
            graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    return [*lookups.values(), *rotated]


def head_of(nodes: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """The product that makes the logits, a bias and changes of type behind it; `None` where there is none."""
    producers = {output: node for node in nodes for output in node.output}
    node = producers.get("logits")
    while node is not None and node.op_type not in PRODUCTS:
        node = next((producers[name] for name in node.input if name in producers), None)
    return node


def _wanted_early(nodes: list[onnx.NodeProto], head: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The wanted tokens chosen as far before the head as no other token is needed.

    In a model with pre-norm blocks that is after the last layer's attention, and in the residual stream
    before it:

        x ─┬─ norm ─ qkv ─ attention ─ [wanted] ─ output ─ + ─ norm ─ mlp ─ + ─ norm ─ head
           └─ [wanted] ────────────────────────────────────┘

    A mixture of experts is several operators, of which some turn tokens to another axis: it makes all rows.
    """
    readers: dict[str, list[str]] = {}  # of a tensor: what the nodes that read it make
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node.output[0])
    of_wanted = {head.output[0]}
    for node in reversed(nodes):
        makes = node.output[0]
        is_by_row = node.op_type in ROW_BY_ROW or _reads_slots(node)
        if is_by_row and makes in readers and of_wanted.issuperset(readers[makes]):
            of_wanted.add(makes)
    of_all = _led_to_by(nodes, "input_ids") - of_wanted | {"slot_of_token"}
    rebuilt, gathered = [], set()
    for node in nodes:
        for place, name in enumerate(node.input):
            is_data = place == 0 and _reads_slots(node)  # attention's, with slots in place of tokens
            if node.output[0] not in of_wanted or name not in of_all or is_data:
                continue
            node.input[place] = chosen = f"{name}.wanted"
            if name not in gathered:
                gathered.add(name)
                inputs = [name, "logits_indices"]
                rebuilt.append(helper.make_node("Gather", inputs, [chosen], name=chosen, axis=1))
        rebuilt.append(node)
    return rebuilt


def _reads_slots(node: onnx.NodeProto) -> bool:
    """Whether a node takes tokens out of their slots, after attention."""
    return node.op_type == "GatherND" and node.input[1] == "slot_of_token"


def _led_to_by(nodes: list[onnx.NodeProto], source: str) -> set[str]:
    """All tensors that depend on `source`."""
    found = {source}
    for node in nodes:
        if found & set(node.input):
            found.update(node.output)
    return found


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that lead to `wanted`: what the mask was made into no longer does."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted = wanted | set(node.input)
    return kept[::-1]


def _state_contract(graph: onnx.GraphProto) -> None:
    weights = [each for each in graph.input if "/" in each.name]  # only before `attach`
    caches = [each for each in graph.input if each.name.startswith("past_key_values.")]
    logits = next(each for each in graph.output if each.name == "logits")
    presents = [each for each in graph.output if each.name.startswith("present.")]
    for each in (*caches, *presents):
        dims = each.type.tensor_type.shape.dim
        dims[0].dim_param, dims[2].dim_param = ROWS, CAPACITY
    dims = logits.type.tensor_type.shape.dim
    dims[0].dim_value, dims[1].dim_param = 1, WANTED
    tokens = [_value_info(tensor) for tensor in INPUTS]
    caches, weights = [_copied(each) for each in caches], [_copied(each) for each in weights]
    del graph.input[:]
    graph.input.extend([*tokens, *caches, *weights])
    del graph.value_info[:]
    used = {name for node in graph.node for name in node.input}
    kept = [_copied(each) for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _copied(proto):
    copy = type(proto)()
    copy.CopyFrom(proto)
    return copy


def _value_info(tensor: signature.Tensor) -> onnx.ValueInfoProto:
    kinds = {"int64": onnx.TensorProto.INT64, "int32": onnx.TensorProto.INT32}
    return helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], list(tensor.dims))
