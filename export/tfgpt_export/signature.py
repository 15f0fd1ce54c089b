"""The contract of the graph: the only place that knows tensor names, types, axes and the layout of the cache.

    IN   input_ids, position_ids         int64    [batch_size, sequence_length]
    IN   attention_mask                  int64    [batch_size, past_sequence_length + sequence_length]
    IN   past_key_values.{i}.key|value   float32  [batch_size, kv_heads, past_sequence_length, head_dim]
    OUT  logits                          float32  [batch_size, sequence_length, vocabulary]
    OUT  present.{i}.key|value           float32  [batch_size, kv_heads, past_... + sequence_length, head_dim]

One graph serves prefill (a past of length 0) and decoding. Layers are in numerical order, key before value:
optimum pairs them by place. The names of the dynamic dimensions are part of the contract: transformers.js
sizes the empty cache from them.
"""

from dataclasses import dataclass

from tfgpt.config import ModelConfig

BATCH = "batch_size"
LENGTH = "sequence_length"
PAST = "past_sequence_length"
TOTAL = "past_sequence_length + sequence_length"


@dataclass(frozen=True)
class Tensor:
    """One input or output: dimensions are numbers, or names where they are dynamic."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    @property
    def static_shape(self) -> tuple[int | None, ...]:
        """The shape with `None` for dynamic dimensions."""
        return tuple(dim if isinstance(dim, int) else None for dim in self.dims)


TOKEN_INPUTS = (
    Tensor("input_ids", "int64", (BATCH, LENGTH)),
    Tensor("attention_mask", "int64", (BATCH, TOTAL)),
    Tensor("position_ids", "int64", (BATCH, LENGTH)),
)


def past_tensors(config: ModelConfig, dtype: str = "float32") -> tuple[Tensor, ...]:
    """The cache that goes in, layer by layer, key then value."""
    return _cache_tensors(config, "past_key_values", PAST, dtype)


def present_tensors(config: ModelConfig, dtype: str = "float32") -> tuple[Tensor, ...]:
    """The cache that comes out, in the same order."""
    return _cache_tensors(config, "present", TOTAL, dtype)


def inputs(config: ModelConfig, dtype: str = "float32") -> tuple[Tensor, ...]:
    """All inputs in order."""
    return TOKEN_INPUTS + past_tensors(config, dtype)


def outputs(config: ModelConfig, dtype: str = "float32") -> tuple[Tensor, ...]:
    """All outputs in order."""
    logits = Tensor("logits", dtype, (BATCH, LENGTH, config.vocabulary_size))
    return (logits, *present_tensors(config, dtype))


def _cache_tensors(config: ModelConfig, prefix: str, slots: str, dtype: str) -> tuple[Tensor, ...]:
    dims = (BATCH, config.num_key_value_heads, slots, config.head_dim)
    return tuple(
        Tensor(f"{prefix}.{layer}.{kind}", dtype, dims)
        for layer in range(config.num_layers)
        for kind in ("key", "value")
    )
