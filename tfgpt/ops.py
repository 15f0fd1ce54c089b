"""The named operations: everything a layer computes that an exporter wants as one operator.

Each is defined once in `keras.ops`, and can be replaced while a model is traced, so that the export stage
emits one ONNX operator for it (`replaced`), or a tool records what passes through. Layers call these names
and never mention ONNX.

Letters in shape comments: B batch, S tokens given now, T tokens attended to (past and now), H query heads,
K key and value heads, D width of a head, E hidden width.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from keras import ops

from tfgpt.eager import as_one_call
from tfgpt.fused import fused_causal_attention, has_fused_attention
from tfgpt.products import rows_times, rows_times_transposed
from tfgpt.rotary import RotarySpec, rotate, rotation

_replacements: contextvars.ContextVar[Mapping[str, Callable]] = contextvars.ContextVar(
    "replacements", default=MappingProxyType({})
)

NAMES: list[str] = []


def named_operation(definition: Callable) -> Callable:
    """Makes a function replaceable by its name within `replaced`."""
    name = definition.__name__
    NAMES.append(name)

    @functools.wraps(definition)
    def call(*args, **kwargs):
        return _replacements.get().get(name, definition)(*args, **kwargs)

    call.definition = definition
    return call


@contextlib.contextmanager
def replaced(replacements: dict[str, Callable]):
    """Within the context, operations named in `replacements` run the given function instead.

    A replacement takes the arguments of the operation it stands for. Contexts nest; the inner one wins.

    Raises:
        KeyError: a name is not that of a named operation.
    """
    for name in replacements:
        if name not in NAMES:
            raise KeyError(f"{name!r} is not a named operation; there are {', '.join(NAMES)}")
    token = _replacements.set({**_replacements.get(), **replacements})
    try:
        yield
    finally:
        _replacements.reset(token)


@named_operation
@as_one_call()
def linear(x, kernel, bias=None):
    """`x @ kernel + bias`: x `[..., in]`, kernel `[in, out]`, bias `[out]` -> `[..., out]`."""
    y = rows_times(x, kernel)
    return y if bias is None else ops.add(y, bias)


@named_operation
@as_one_call()
def tied_linear(x, table):
    """The head of a tied model: x `[..., E]`, table `[vocabulary, E]` -> `[..., vocabulary]`."""
    return rows_times_transposed(x, table)


@named_operation
@as_one_call()
def lookup(table, indices):
    """Rows of `table` `[rows, width]` at integer `indices` `[...]` -> `[..., width]`."""
    return ops.take(table, indices, axis=0)


@named_operation
@as_one_call("epsilon")
def layer_norm(x, scale, offset, epsilon: float):
    """Layer normalisation over the last axis (Ba et al. 2016, equation 4), in float32 at least."""
    y = at_least_float32(x)
    mean = ops.mean(y, axis=-1, keepdims=True)
    centred = ops.subtract(y, mean)
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    y = ops.multiply(centred, ops.rsqrt(ops.add(variance, epsilon)))
    return ops.add(ops.multiply(ops.cast(y, x.dtype), scale), offset)


@named_operation
@as_one_call("epsilon")
def rms_norm(x, scale, epsilon: float):
    """Root-mean-square normalisation over the last axis (Zhang and Sennrich 2019, equation 4).

    In float32 at least, the scale included: rounded once, as transformers' GptOssRMSNorm does.
    """
    y = at_least_float32(x)
    y = ops.multiply(y, ops.rsqrt(ops.add(ops.mean(ops.square(y), axis=-1, keepdims=True), epsilon)))
    return ops.cast(ops.multiply(y, ops.cast(scale, y.dtype)), x.dtype)


@named_operation
@as_one_call("alpha", "limit")
def clamped_swiglu(x, alpha: float, limit: float):
    """Gated activation of gpt-oss, `[..., 2 I]` -> `[..., I]`: gates and values alternate in the last axis.

    `(value + 1) gate sigmoid(alpha gate)`, the gate at most `limit`, the value within it on both sides
    (arXiv 2508.10925; transformers' GptOssExperts._apply_gate). In float32 at least: `alpha` has no place
    in 8 bits.
    """
    pairs = ops.reshape(at_least_float32(x), (*ops.shape(x)[:-1], x.shape[-1] // 2, 2))
    gate = ops.minimum(pairs[..., 0], limit)
    value = ops.clip(pairs[..., 1], -limit, limit)
    return ops.cast((value + 1) * (gate * ops.sigmoid(gate * alpha)), x.dtype)


@named_operation
@as_one_call("approximate")
def gelu(x, approximate: bool):
    """GELU (Hendrycks and Gimpel 2016): exact, or with the tanh approximation of its section 2."""
    return ops.gelu(x, approximate=approximate)


@dataclass(frozen=True)
class AttentionSpec:
    """All that is fixed about one attention layer."""

    num_heads: int
    num_key_value_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    rotary: RotarySpec | None = None


class AttentionInputs(NamedTuple):
    """What all layers share in one forward pass; made once by `attention_inputs`.

    `masks`: `mask_name(window)` -> bool `[B or 1, 1, S, T]`, true where a query may look.
    `rotation`: cosines and sines `[B, S, 1, dim / 2]` float32, or `None`.
    `padding`: the mask that was given, or `None` when all tokens are real.
    """

    masks: dict[str, Any]
    rotation: tuple[Any, Any] | None
    padding: Any = None


def mask_name(window: int | None) -> str:
    """The key of a window in `AttentionInputs.masks` (strings, since nested structures sort their keys)."""
    return "global" if window is None else f"local_{window}"


@named_operation
@as_one_call("windows", "rotary")
def attention_inputs(positions, mask, past, windows: tuple[int | None, ...], rotary: RotarySpec | None):
    """Masks and rotary angles of one forward pass.

    Args:
        positions: int `[B or 1, S]`, the place of each token in its own text.
        mask: int or bool `[B, T]`, 1 for real tokens, or `None` when all are.
        past: the layer's `Past` (`tfgpt.layers.cache`) of any one layer.
        windows: the distinct windows of the model's layers, `None` for global attention.
        rotary: how positions turn queries and keys, or `None`.

    Windows count slots of the cache, so padding inside a row's text is not supported under a local window
    except at its left, where slots and positions differ by a constant.
    """
    query_slot = ops.add(past.num_slots_before, ops.arange(ops.shape(positions)[1]))[:, None]  # [S, 1]
    key_slot = ops.arange(past.num_slots_after(ops.shape(positions)[1]))[None, :]  # [1, T]
    masks = {}
    for window in windows:
        visible = ops.less_equal(key_slot, query_slot)  # [S, T]
        if window is not None:
            visible = ops.logical_and(visible, ops.less(ops.subtract(query_slot, key_slot), window))
        visible = visible[None, None]  # [1, 1, S, T]
        if mask is not None:
            visible = ops.logical_and(visible, ops.cast(mask, "bool")[:, None, None, :])  # [B, 1, S, T]
        masks[mask_name(window)] = visible
    return AttentionInputs(masks, None if rotary is None else rotation(positions, rotary), mask)


@named_operation
@as_one_call("spec")
def attention(qkv, inputs: AttentionInputs, past, spec: AttentionSpec, sinks=None, dropout=None):
    """Causal scaled dot-product attention (Vaswani et al. 2017, equation 1) with the cache in and out.

    Args:
        qkv: `[B, S, (H + 2 K) D]`: all query heads, then all key heads, then all value heads.
        inputs: from `attention_inputs`.
        past: this layer's `Past`.
        spec: this layer's `AttentionSpec`.
        sinks: `[H]`, a score of each head that takes its share of the softmax and leads nowhere, or `None`.
        dropout: applied to the probabilities `[B, H, S, T]`, or `None`.

    Returns:
        context `[B, S, H D]` and the `Past` with the new keys and values in it.
    """
    query, key, value = split_heads(qkv, spec)
    if spec.rotary is not None:
        query = rotate(query, inputs.rotation, spec.rotary)
        key = rotate(key, inputs.rotation, spec.rotary)
    keys, values, present = past.append(
        ops.transpose(key, (0, 2, 1, 3)),  # [B, K, S, D]
        ops.transpose(value, (0, 2, 1, 3)),
    )
    length = ops.shape(query)[1]
    causal_alone = past.is_empty and inputs.padding is None and spec.window is None
    if causal_alone and dropout is None and sinks is None and has_fused_attention(query.dtype):
        context = fused_causal_attention(query, key, value, spec.scale)
        return ops.reshape(context, (-1, length, spec.num_heads * spec.head_dim)), present
    probabilities = attention_probabilities(
        query, keys, inputs.masks[mask_name(spec.window)], spec, sinks
    )  # [B, H, S, T]
    if dropout is not None:
        probabilities = dropout(probabilities)
    grouped = _group(probabilities, spec, length)  # [B, K, G S, T]
    context = ops.matmul(grouped, values)  # [B, K, G S, D]
    context = ops.reshape(context, (-1, spec.num_heads, length, spec.head_dim))
    context = ops.transpose(context, (0, 2, 1, 3))  # [B, S, H, D]
    return ops.reshape(context, (-1, length, spec.num_heads * spec.head_dim)), present


def split_heads(qkv, spec: AttentionSpec):
    """`[B, S, (H + 2 K) D]` -> query `[B, S, H, D]`, key and value `[B, S, K, D]`."""
    length = ops.shape(qkv)[1]
    heads = ops.reshape(qkv, (-1, length, spec.num_heads + 2 * spec.num_key_value_heads, spec.head_dim))
    return ops.split(heads, [spec.num_heads, spec.num_heads + spec.num_key_value_heads], axis=2)


def attention_probabilities(query, keys, visible, spec: AttentionSpec, sinks=None):
    """Softmax of the scores in float32: query `[B, S, H, D]`, keys `[B, K, T, D]` -> `[B, H, S, T]`.

    With sinks `[H]` the probabilities of a row sum to less than 1: the rest is the sink's.
    """
    length = ops.shape(query)[1]
    # The query is scaled, not the scores: S D products instead of S T.
    query = ops.transpose(ops.multiply(query, ops.cast(spec.scale, query.dtype)), (0, 2, 1, 3))
    scores = ops.matmul(_group(query, spec, length), ops.transpose(keys, (0, 1, 3, 2)))  # [B, K, G S, T]
    scores = ops.reshape(scores, (-1, spec.num_heads, length, ops.shape(keys)[2]))  # [B, H, S, T]
    # Finite, so that a row with nothing to look at (padding) gives equal weights and not NaN.
    scores = ops.where(visible, at_least_float32(scores), -1e9)
    if sinks is not None:
        return ops.cast(_softmax_beside(scores, at_least_float32(sinks)[:, None, None]), query.dtype)
    if scores.shape[-1] == 1:
        # The first token alone. Keras warns of a softmax over a single score, which is 1.
        return ops.ones_like(scores, dtype=query.dtype)
    return ops.cast(ops.softmax(scores, axis=-1), query.dtype)


def _softmax_beside(scores, sinks):
    """`exp(score) / (exp(sink) + sum of exp(scores))` over the last axis; sinks broadcast to `[..., 1]`."""
    # Any shift gives the same numbers, so none goes through the gradient.
    largest = ops.stop_gradient(ops.maximum(ops.max(scores, axis=-1, keepdims=True), sinks))
    shares = ops.exp(scores - largest)
    return shares / (ops.sum(shares, axis=-1, keepdims=True) + ops.exp(sinks - largest))


def _group(x, spec: AttentionSpec, length):
    """`[B, H, S, n]` -> `[B, K, G S, n]`: the G query heads that share a key head side by side."""
    groups = spec.num_heads // spec.num_key_value_heads
    if groups == 1:
        return x
    return ops.reshape(x, (-1, spec.num_key_value_heads, groups * length, ops.shape(x)[3]))


def at_least_float32(x):
    """Half precision is widened for sums and exponentials; float32 and float64 stay."""
    return ops.cast(x, "float32") if x.dtype in ("float16", "bfloat16") else x
