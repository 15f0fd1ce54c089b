"""Causal self-attention over the cache."""

import keras

from tfgpt import ops
from tfgpt.config import ModelConfig, Positions
from tfgpt.layers.linear import Linear


def rotary_spec(config: ModelConfig) -> ops.RotarySpec | None:
    """How positions turn queries and keys in this model; `None` where they do not."""
    if config.positions is Positions.LEARNED:
        return None
    interleaved = config.positions is Positions.ROTARY_INTERLEAVED
    dim = config.rotary_dim or config.head_dim
    return ops.RotarySpec(dim, config.rotary_base, interleaved, config.yarn)


def attention_spec(config: ModelConfig, layer: int) -> ops.AttentionSpec:
    """The fixed facts of attention layer number `layer`, counted from 0."""
    return ops.AttentionSpec(
        num_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        scale=config.score_scale_of(layer),
        window=config.window_of(layer),
        rotary=rotary_spec(config),
    )


class SelfAttention(keras.layers.Layer):
    """Causal self-attention, `[B, S, E]` -> `[B, S, E]`, with the cache in and out.

    One linear map makes queries, keys and values side by side, `[E, (H + 2 K) D]`.
    """

    def __init__(self, config: ModelConfig, layer: int, **kwargs):
        super().__init__(**kwargs)
        self.spec = attention_spec(config, layer)
        heads = config.num_heads + 2 * config.num_key_value_heads
        deviation = config.initializer_range
        self.qkv = Linear(
            heads * config.head_dim, config.attention_bias, deviation, name="qkv", dtype=self.dtype_policy
        )
        # Writes to the residual stream: scaled as in `MLP`.
        deviation /= (2 * config.num_layers) ** 0.5
        self.output_map = Linear(
            config.hidden_dim,
            config.attention_output_bias,
            deviation,
            name="output",
            dtype=self.dtype_policy,
        )
        self.has_sinks = config.attention_sinks
        self.initializer_range = config.initializer_range
        self.sinks = None
        _, rate, _ = config.rates
        self.dropout = keras.layers.Dropout(rate, name="dropout", dtype=self.dtype_policy) if rate else None

    def build(self, input_shape):
        self.qkv.build(input_shape)
        self.output_map.build((*input_shape[:-1], self.spec.num_heads * self.spec.head_dim))
        if self.has_sinks:
            initializer = keras.initializers.RandomNormal(stddev=self.initializer_range)
            self.sinks = self.add_weight((self.spec.num_heads,), initializer, name="sinks")
        self.built = True

    def call(self, x, inputs, past, training=None):
        dropout = self.dropout if training else None
        context, present = ops.attention(self.qkv(x), inputs, past, self.spec, self.sinks, dropout)
        return self.output_map(context), present
