"""Lowering to standard operators alone: what any ONNX runtime has, and nothing of com.microsoft.

The same contract and the same numbers as `lower.py` gives, for runtimes other than onnxruntime.
LayerNormalization (opset 17) is the newest operator; GELU, RMS norm, rotary positions, attention and the
mixture of experts are spelled out. Each call of `mark` is one ONNX node.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt.config import ModelConfig
from tfgpt.expert_ops import ExpertWeights, MixtureSpec
from tfgpt.ops import AttentionSpec, mask_name
from tfgpt.rotary import RotarySpec
from tfgpt_export import lower
from tfgpt_export.lower import MASKED, mark, rotary_tables

OPSET, IR_VERSION = 17, 8


class PortableInputs(NamedTuple):
    """What `ops.AttentionInputs` is in the portable graph."""

    biases: dict[str, Any]  # by `mask_name`: float [B, 1, 1, S, T], 0 where a query may look, else MASKED
    rotation: tuple | None  # cosines and sines [B, S, 1, dim / 2]


def lowered(config: ModelConfig) -> dict:
    """The replacements for `tfgpt.ops.replaced` while a model is traced for the portable graph."""

    def attention_inputs(positions, mask, past, windows, rotary):
        del past
        return _attention_inputs(positions, mask, windows, rotary_tables(config, rotary))

    return {
        **lower.lowered(config),
        "rms_norm": _rms_norm,
        "gelu": _gelu,
        "mixture_of_experts": _mixture_of_experts,
        "attention_inputs": attention_inputs,
        "attention": _attention,
    }


def counts(config: ModelConfig) -> dict[str, int]:
    """How many of the operators of named operations a portable graph must have, its head apart."""
    fused = {"GroupQueryAttention", "RotaryEmbedding", "Gelu", "MoE", "RMSNormalization"}
    kept = {name: number for name, number in lower.counts(config).items() if name not in fused}
    kept["MatMul"] += 2 * config.num_layers  # scores, and the sum of values
    if config.num_experts is not None:
        kept["MatMul"] += 2 * config.num_layers
        # The chosen experts' two kernels and two biases; gates and values apart.
        kept["Gather"] += 6 * config.num_layers
    kept["Gather"] += 2 * (config.positions.value != "learned")  # cosines and sines
    return kept


def _ints(*numbers: int):
    return tf.constant(numbers, tf.int64)


def _reshape(x, *dims: int):
    """0 keeps a dimension, -1 is what is left."""
    shape = [None if dim == -1 else x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(dims)]
    return mark("Reshape", [x, _ints(*dims)], [(x.dtype, shape)])


def _transpose(x, *perm: int):
    return mark("Transpose", [x], [(x.dtype, [x.shape[axis] for axis in perm])], perm=list(perm))


def _split(x, sizes: list[int]) -> list:
    outputs = [(x.dtype, [*x.shape[:-1], size]) for size in sizes]
    return mark("Split", [x, _ints(*sizes)], outputs, axis=-1)


def _concat(parts: list, axis: int):
    shape = parts[0].shape.as_list()
    sizes = [part.shape[axis] for part in parts]
    shape[axis] = None if None in sizes else sum(sizes)
    return mark("Concat", parts, [(parts[0].dtype, shape)], axis=axis)


def _unsqueeze(x, *axes: int):
    shape = x.shape.as_list()
    for axis in axes:
        shape.insert(axis, 1)
    return mark("Unsqueeze", [x, _ints(*axes)], [(x.dtype, shape)])


def _same(operator: str, x, *others, **attributes):
    """A node whose output is like its first input."""
    return mark(operator, [x, *others], [(x.dtype, x.shape)], **attributes)


def _product(x, y, shape: list):
    return mark("MatMul", [x, y], [(x.dtype, shape)])


def _rms_norm(x, scale, epsilon):
    mean = mark("ReduceMean", [_same("Mul", x, x)], [(x.dtype, [*x.shape[:-1], 1])], axes=[-1], keepdims=1)
    root = _same("Sqrt", _same("Add", mean, tf.constant(epsilon, x.dtype)))
    return _same("Mul", _same("Div", x, root), scale)


def _gelu(x, approximate):
    """Hendrycks and Gimpel 2016, section 2: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), or by erf."""
    if approximate:
        cube = _same("Mul", _same("Mul", x, x), x)
        inner = _same("Add", x, _same("Mul", cube, tf.constant(0.044715, x.dtype)))
        bent = _same("Tanh", _same("Mul", inner, tf.constant(math.sqrt(2 / math.pi), x.dtype)))
    else:
        bent = _same("Erf", _same("Mul", x, tf.constant(math.sqrt(0.5), x.dtype)))
    half = _same("Mul", x, tf.constant(0.5, x.dtype))
    return _same("Mul", half, _same("Add", bent, tf.constant(1.0, x.dtype)))


def _attention_inputs(positions, mask, windows, tables) -> PortableInputs:
    lower.check_mask(mask)
    total = mark("Shape", [mask], [(tf.int64, [1])], start=1, end=2)
    length = mark("Shape", [positions], [(tf.int64, [1])], start=1, end=2)
    zero, one = tf.constant(0, tf.int64), tf.constant(1, tf.int64)
    num_slots = mark("Squeeze", [total, _ints(0)], [(tf.int64, [])])
    before = mark("Squeeze", [_same("Sub", total, length), _ints(0)], [(tf.int64, [])])
    key_slot = mark("Range", [zero, num_slots, one], [(tf.int64, [None])])  # [T]
    query_slot = _unsqueeze(mark("Range", [before, num_slots, one], [(tf.int64, [None])]), 1)  # [S, 1]
    distance = mark("Sub", [query_slot, key_slot], [(tf.int64, [None, None])])  # [S, T]
    seen = mark("GreaterOrEqual", [distance, zero], [(tf.bool, [None, None])])
    real = _unsqueeze(mark("Cast", [mask], [(tf.bool, mask.shape)], to=9), 1, 2, 3)  # [B, 1, 1, 1, T]
    biases = {}
    for window in windows:
        near = seen
        if window is not None:
            within = mark("Less", [distance, tf.constant(window, tf.int64)], [(tf.bool, [None, None])])
            near = _same("And", seen, within)
        shape = [None, 1, 1, None, None]
        visible = mark("And", [real, near], [(tf.bool, shape)])
        choices = [visible, tf.constant(0.0), tf.constant(MASKED, tf.float32)]
        biases[mask_name(window)] = mark("Where", choices, [(tf.float32, shape)])
    return PortableInputs(biases, _rotation(positions, tables) if tables else None)


def _rotation(positions, tables) -> tuple:
    parts = [
        mark("Gather", [table, positions], [(table.dtype, [*positions.shape, table.shape[1]])], axis=0)
        for table in tables
    ]
    return tuple(_unsqueeze(part, 2) for part in parts)  # [B, S, 1, dim / 2]


def _attention(qkv, inputs: PortableInputs, past, spec: AttentionSpec, sinks=None, dropout=None):
    del dropout  # never active while exporting
    query, key, value = _heads(qkv, spec)  # [B, S, H, D], [B, S, K, D]
    if spec.rotary is not None:
        query, key = (_rotated(part, inputs.rotation, spec.rotary) for part in (query, key))
    keys, values = (_transpose(part, 0, 2, 1, 3) for part in (key, value))  # [B, K, S, D]
    if not past.is_empty:
        keys, values = _concat([past.key, keys], axis=2), _concat([past.value, values], axis=2)
        past = past._replace(key=keys, value=values)  # [B, K, T, D]
    groups = spec.num_heads // spec.num_key_value_heads
    query = _transpose(_same("Mul", query, tf.constant(spec.scale, qkv.dtype)), 0, 2, 1, 3)
    query = _reshape(query, 0, spec.num_key_value_heads, groups, -1, spec.head_dim)  # [B, K, G, S, D]
    shape = [None, spec.num_key_value_heads, groups, None, None]  # [B, K, G, S, T]
    turned = _unsqueeze(_transpose(keys, 0, 1, 3, 2), 2)  # [B, K, 1, D, T]
    scores = _same("Add", _product(query, turned, shape), inputs.biases[mask_name(spec.window)])
    shares = _same("Softmax", scores, axis=-1) if sinks is None else _beside(scores, sinks, spec)
    context = _product(shares, _unsqueeze(values, 2), [*shape[:4], spec.head_dim])  # [B, K, G, S, D]
    context = _transpose(_reshape(context, 0, spec.num_heads, -1, spec.head_dim), 0, 2, 1, 3)
    context = _reshape(context, 0, 0, spec.num_heads * spec.head_dim)
    return context, past


def _heads(qkv, spec: AttentionSpec) -> list:
    numbers = [spec.num_heads, spec.num_key_value_heads, spec.num_key_value_heads]
    parts = _split(qkv, [number * spec.head_dim for number in numbers])
    return [_reshape(part, 0, 0, number, spec.head_dim) for part, number in zip(parts, numbers, strict=True)]


def _beside(scores, sinks, spec: AttentionSpec):
    """Softmax whose sum has the sink's share in it: `tfgpt.ops.attention_probabilities`."""
    heads = [spec.num_key_value_heads, spec.num_heads // spec.num_key_value_heads, 1, 1]
    sinks = _reshape(sinks, *heads)  # [K, G, 1, 1]
    one = [(scores.dtype, [*scores.shape[:-1], 1])]
    largest = _same("Max", mark("ReduceMax", [scores], one, axes=[-1], keepdims=1), sinks)
    shares = _same("Exp", _same("Sub", scores, largest))
    total = mark("ReduceSum", [shares, _ints(-1)], one, keepdims=1)
    sink = mark("Sub", [sinks, largest], one)
    return _same("Div", shares, _same("Add", total, _same("Exp", sink)))


def _rotated(x, rotation, rotary: RotarySpec):
    """`tfgpt.rotary.rotate`: x `[B, S, heads, D]`."""
    cosine, sine = rotation
    rest = x.shape[-1] - rotary.dim
    turned, *kept = _split(x, [rotary.dim, rest]) if rest else [x]
    half, heads = rotary.dim // 2, x.shape[2]
    if rotary.interleaved:
        pairs = _reshape(turned, 0, 0, heads, half, 2)
        first, second = _split(pairs, [1, 1])  # [B, S, heads, dim / 2, 1]
        cosine, sine = _unsqueeze(cosine, 4), _unsqueeze(sine, 4)
    else:
        first, second = _split(turned, [half, half])
    ahead = _same("Sub", _same("Mul", first, cosine), _same("Mul", second, sine))
    behind = _same("Add", _same("Mul", second, cosine), _same("Mul", first, sine))
    turned = _concat([ahead, behind], axis=-1)
    if rotary.interleaved:
        turned = _reshape(turned, 0, 0, heads, rotary.dim)
    return _concat([turned, *kept], axis=-1) if kept else turned


def _mixture_of_experts(x, router_logits, weights: ExpertWeights, spec: MixtureSpec):
    """Every token's chosen experts and no others; their weights are gathered, token by token.

    That is right for one token and for small models: a prompt of N tokens gathers N k experts. Real ones of
    this kind want a runtime that has the fused operator.
    """
    chosen_per_token, dtype = spec.num_experts_per_token, x.dtype
    pair = [None, chosen_per_token]
    scores, chosen = mark(
        "TopK", [router_logits, _ints(chosen_per_token)], [(dtype, pair), (tf.int64, pair)], axis=-1
    )
    shares = _unsqueeze(_same("Softmax", scores, axis=-1), 2, 3)  # [N, k, 1, 1]

    def linear(inputs, kernel, bias):
        """inputs `[N, 1 or k, 1, in]` -> `[N, k, 1, out]`."""
        gathered = [
            mark("Gather", [part, chosen], [(dtype, [*pair, *part.shape[1:]])], axis=0)
            for part in (kernel, bias)
        ]
        kernels, biases = _transpose(gathered[0], 0, 1, 3, 2), _unsqueeze(gathered[1], 2)
        return _same("Add", _product(inputs, kernels, [*pair, 1, bias.shape[1]]), biases)

    rows = mark("Reshape", [x, _ints(-1, 1, 1, x.shape[-1])], [(dtype, [None, 1, 1, x.shape[-1]])])
    hidden = _swiglu(linear(rows, weights.up_kernel, weights.up_bias), spec)
    answers = _same("Mul", linear(hidden, weights.down_kernel, weights.down_bias), shares)
    total = mark("ReduceSum", [answers, _ints(1, 2)], [(dtype, [None, x.shape[-1]])], keepdims=0)  # [N, E]
    shape = mark("Shape", [x], [(tf.int64, [3])])
    return mark("Reshape", [total, shape], [(dtype, x.shape)])


def _swiglu(x, spec: MixtureSpec):
    """`tfgpt.ops.clamped_swiglu`: x `[N, k, 1, 2 I]` -> `[N, k, 1, I]`."""
    width, limit = x.shape[-1] // 2, tf.constant(spec.swiglu_limit, x.dtype)
    pairs = mark("Reshape", [x, _ints(0, 0, 0, width, 2)], [(x.dtype, [*x.shape[:3], width, 2])])
    gate, value = (
        mark("Gather", [pairs, tf.constant(side, tf.int64)], [(x.dtype, [*x.shape[:3], width])], axis=-1)
        for side in (0, 1)
    )
    gate = _same("Min", gate, limit)
    value = _same("Clip", value, -limit, limit)
    bent = _same("Mul", gate, _same("Sigmoid", _same("Mul", gate, tf.constant(spec.swiglu_alpha, x.dtype))))
    return _same("Mul", _same("Add", value, tf.constant(1.0, x.dtype)), bent)
