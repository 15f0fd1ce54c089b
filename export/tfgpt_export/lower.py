"""Lowering: each named operation of `tfgpt.ops` becomes one ONNX operator.

While a model is traced, `lowered` replaces the named operations by markers: a `PyFunc` node of TensorFlow
whose token says which ONNX node shall stand there. The converter hands each marker to `place`, which puts the
node in. Nothing is matched and nothing is fused afterwards; `counts` says how many there must be.
"""

import json
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt.config import Activation, ModelConfig, Norm, Positions
from tfgpt.errors import InputError
from tfgpt.expert_ops import ExpertWeights, MixtureSpec
from tfgpt.families.counting import count_norms
from tfgpt.ops import AttentionSpec
from tfgpt.rotary import RotarySpec

MICROSOFT = "com.microsoft"
MARKER = "PyFunc"
# The node of a weight, which has no inputs and the weight's name as its attribute: only until the conversion
# is done, when the weight becomes an input of the graph.
WEIGHT = "Weight"
# Added to the scores of padded slots; GroupQueryAttention does causality and windows itself.
MASKED = -1e9


def mark(operator: str, tensors: list, outputs: list[tuple], domain: str = "", slots=None, **attributes):
    """Emits a marker for one ONNX node.

    Args:
        operator, domain, attributes: of the ONNX node.
        tensors: its inputs.
        outputs: (dtype, shape) of each output.
        slots: for each input of the ONNX node, which of `tensors` it is, `None` where it is left out;
            by default all of them in order.

    Returns:
        the output tensors, a single one bare.
    """
    slots = list(range(len(tensors))) if slots is None else slots
    token = json.dumps({"operator": operator, "domain": domain, "slots": slots, "attributes": attributes})
    results = tf.raw_ops.PyFunc(input=tensors, token=token, Tout=[dtype for dtype, _ in outputs])
    for result, (_, shape) in zip(results, outputs, strict=True):
        result.set_shape(shape)
    return results[0] if len(results) == 1 else results


def mark_weight(name: str, shape: tuple[int, ...], dtype: str):
    """Emits a marker for one weight, which becomes an input of the graph: see `WEIGHT`."""
    return mark(WEIGHT, [], [(dtype, shape)], weight=name)


def place(graph, node, name, args):
    """tf2onnx handler: puts the ONNX node that a marker asks for in its place."""
    wanted = json.loads(node.get_attr_value("token"))
    inputs = ["" if slot is None else node.input[slot] for slot in wanted["slots"]]
    shapes = [graph.get_shape(output) for output in node.output]
    dtypes = [graph.get_dtype(output) for output in node.output]
    graph.remove_node(node.name)
    graph.make_node(
        wanted["operator"],
        inputs,
        name=node.name,
        outputs=node.output,
        shapes=shapes,
        dtypes=dtypes,
        domain=wanted["domain"],
        attr=wanted["attributes"],
        skip_conversion=True,
    )


class LoweredInputs(NamedTuple):
    """What `ops.AttentionInputs` is in the exported graph: made once, read by every attention operator."""

    bias: Any  # float [B, 1, S, T]: 0 on real slots, MASKED on padding
    last_slot: Any  # int32 [B]: T - 1
    num_slots: Any  # int32 []: T
    rotation: tuple  # (cosines, sines, positions) or ()


def lowered(config: ModelConfig) -> dict:
    """The replacements for `tfgpt.ops.replaced` while a model of this config is traced for export."""

    def attention_inputs(positions, mask, past, windows, rotary):
        del past, windows
        # `decoder.derive_positions` counts in 32 bits; RotaryEmbedding reads 64.
        positions = tf.cast(positions, tf.int64)
        return _attention_inputs(positions, mask, rotary_tables(config, rotary))

    return {
        "linear": _linear,
        "tied_linear": _tied_linear,
        "lookup": _lookup,
        "layer_norm": _layer_norm,
        "rms_norm": _rms_norm,
        "gelu": _gelu,
        "route": _route,
        "mixture_of_experts": _mixture_of_experts,
        "attention_inputs": attention_inputs,
        "attention": _attention,
    }


def check_config(config: ModelConfig) -> None:
    """Raises `InputError` for a model that the operators cannot express."""
    if config.head_dim % 8:
        raise InputError(
            f"the model's heads are {config.head_dim} wide, expected a multiple of 8: onnxruntime's "
            "attention operator takes no other; choose hidden_dim and num_heads accordingly"
        )


def counts(config: ModelConfig) -> dict[str, int]:
    """How many of each lowered operator a graph of this config must have, its head apart."""
    gelus = config.activation in (Activation.GELU, Activation.GELU_TANH)
    # Queries with keys and values, output, and an MLP's two.
    products = (4 if config.num_experts is None else 2) * config.num_layers
    norm = "LayerNormalization" if config.norm is Norm.LAYER else "RMSNormalization"
    return {
        "GroupQueryAttention": config.num_layers,
        "RotaryEmbedding": 2 * config.num_layers * (config.positions is not Positions.LEARNED),
        norm: count_norms(config),
        "Gelu": config.num_layers * gelus,
        "MoE": config.num_layers * (config.num_experts is not None),
        "Gemm": config.num_layers * (config.num_experts is not None),
        "MatMul": products,
        "Gather": 1 + (config.positions is Positions.LEARNED),
    }


def _linear(x, kernel, bias=None):
    y = mark("MatMul", [x, kernel], [(x.dtype, [*x.shape[:-1], kernel.shape[-1]])])
    return y if bias is None else tf.add(y, bias)


def _tied_linear(x, table):
    # The one transpose of the graph; the runtime does it once, when it loads.
    kernel = mark("Transpose", [table], [(table.dtype, table.shape[::-1])], perm=[1, 0])
    return _linear(x, kernel)


def _lookup(table, indices):
    return mark("Gather", [table, indices], [(table.dtype, [*indices.shape, table.shape[1]])], axis=0)


def _layer_norm(x, scale, offset, epsilon):
    return mark("LayerNormalization", [x, scale, offset], [(x.dtype, x.shape)], axis=-1, epsilon=epsilon)


def _rms_norm(x, scale, epsilon):
    return mark("RMSNormalization", [x, scale], [(x.dtype, x.shape)], axis=-1, epsilon=epsilon)


def _gelu(x, approximate):
    return mark("Gelu", [x], [(x.dtype, x.shape)], approximate="tanh" if approximate else "none")


def _route(x, kernel, bias):
    rows = mark(
        "Reshape", [x, tf.constant([-1, x.shape[-1]], tf.int64)], [(x.dtype, [None, x.shape[-1]])]
    )  # the mixture's operator takes one row of logits for each token
    # Not MatMul, which the quantizer rewrites.
    return mark("Gemm", [rows, kernel, bias], [(x.dtype, [None, kernel.shape[-1]])])


def _mixture_of_experts(x, router_logits, weights: ExpertWeights, spec: MixtureSpec):
    return mark(
        "MoE",
        [x, router_logits, *weights],
        [(x.dtype, x.shape)],
        domain=MICROSOFT,
        k=spec.num_experts_per_token,
        normalize_routing_weights=1,  # the softmax is over the chosen alone
        activation_type="swiglu",
        swiglu_fusion=1,  # gates and values alternate
        swiglu_limit=spec.swiglu_limit,
        activation_alpha=spec.swiglu_alpha,
        activation_beta=1.0,
    )


def check_mask(mask) -> None:
    """Raises `ValueError` where a task's call gave the decoder none."""
    if mask is None:
        raise ValueError(
            "found no mask, expected one: the lowered attention reads it, so `Task.call` gives it"
        )


def _attention_inputs(positions, mask, rotation):
    check_mask(mask)

    def size(tensor, axis):  # int64 [1]
        return mark("Shape", [tensor], [(tf.int64, [1])], start=axis, end=axis + 1)

    batch_size, total, one = size(mask, 0), size(mask, 1), tf.ones([1], tf.int64)
    bias = (1.0 - tf.cast(mask, tf.float32)) * MASKED  # [B, T]
    bias = mark("Unsqueeze", [bias, tf.constant([1, 2], tf.int64)], [(tf.float32, [None, 1, 1, None])])
    # The operator wants the real query length in dimension 2; it does not broadcast there.
    bias_shape = tf.concat([batch_size, one, size(positions, 1), total], axis=0)
    bias = mark("Expand", [bias, bias_shape], [(tf.float32, [None, 1, None, None])])
    num_slots = tf.squeeze(tf.cast(total, tf.int32))
    last_slot = mark("Expand", [num_slots - 1, batch_size], [(tf.int32, [None])])
    return LoweredInputs(bias, last_slot, num_slots, (*rotation, positions) if rotation else ())


def rotary_tables(config: ModelConfig, rotary: RotarySpec | None) -> tuple:
    if rotary is None:
        return ()
    # [context, dim / 2]
    angle = np.arange(config.context_length, dtype=np.float32)[:, None] * rotary.frequencies()
    amplitude = np.float32(rotary.amplitude)
    return tf.constant(np.cos(angle) * amplitude), tf.constant(np.sin(angle) * amplitude)


def _attention(qkv, inputs: LoweredInputs, past, spec: AttentionSpec, sinks=None, dropout=None):
    del dropout  # never active while exporting
    batch_size, length = qkv.shape[:2]
    cache_shape = [batch_size, spec.num_key_value_heads, None, spec.head_dim]
    # Without rotation the query holds query, key and value side by side; key and value are left out.
    heads = [qkv, None, None] if spec.rotary is None else _rotated_heads(qkv, inputs, spec)
    cached = [None, None] if past.is_empty else [past.key, past.value]
    shared = [inputs.last_slot, inputs.num_slots, None, None, None, inputs.bias]
    given = [*heads, *cached, *shared, *([] if sinks is None else [sinks])]
    tensors, slots = _without_absent(given)
    context, key, value = mark(
        "GroupQueryAttention",
        tensors,
        [
            (qkv.dtype, [batch_size, length, spec.num_heads * spec.head_dim]),
            (qkv.dtype, cache_shape),
            (qkv.dtype, cache_shape),
        ],
        domain=MICROSOFT,
        slots=slots,
        num_heads=spec.num_heads,
        kv_num_heads=spec.num_key_value_heads,
        scale=spec.scale,
        local_window_size=-1 if spec.window is None else spec.window,
    )
    return context, past if past.is_empty else past._replace(key=key, value=value)


def _without_absent(inputs: list) -> tuple[list, list[int | None]]:
    """The tensors among a node's inputs, and `slots` of `mark`."""
    tensors, slots = [], []
    for each in inputs:
        slots.append(None if each is None else len(tensors))
        tensors += [] if each is None else [each]
    return tensors, slots


def _rotated_heads(qkv, inputs: LoweredInputs, spec: AttentionSpec) -> list:
    """Query and key, turned, and value, each `[B, S, heads D]`.

    The attention operator could turn them itself, but with an empty past it counts the slots of every row
    from 0 and does not read the positions: padding on the left would turn a prompt otherwise than the tokens
    after it. Besides, it takes only heads and rotated parts that are multiples of 16 wide, and no more slots
    in the cache, padding included, than the table has rows.
    """
    numbers = [spec.num_heads, spec.num_key_value_heads, spec.num_key_value_heads]
    widths = [number * spec.head_dim for number in numbers]
    outputs = [(qkv.dtype, [*qkv.shape[:2], width]) for width in widths]
    query, key, value = mark("Split", [qkv, tf.constant(widths, tf.int64)], outputs, axis=-1)
    cosines, sines, positions = inputs.rotation

    def turned(x, number):
        return mark(
            "RotaryEmbedding",
            [x, positions, cosines, sines],
            [(x.dtype, x.shape)],
            domain=MICROSOFT,
            interleaved=int(spec.rotary.interleaved),
            num_heads=number,
            rotary_embedding_dim=spec.rotary.dim,
        )

    return [turned(query, numbers[0]), turned(key, numbers[1]), value]
