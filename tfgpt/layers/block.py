"""One Transformer block, in the four wirings of the family.

PRE_NORM             x ─┬─ norm ─ attention ─ + ─┬─ norm ─ mlp ─ + ─     GPT-2, GPT-3, GPT-Neo, gpt-oss
                        └─────────────────────┘  └───────────────┘

POST_NORM            x ─┬─ attention ─ + ─ norm ─┬─ mlp ─ + ─ norm ─     GPT-1
                        └──────────────┘         └────────┘

PARALLEL_ONE_NORM    x ─┬─ norm ─┬─ attention ─ + ─ + ─                  GPT-J
                        │        └─ mlp ────────┘   │
                        └───────────────────────────┘

PARALLEL_TWO_NORMS   x ─┬─ norm ─ attention ─ + ─ + ─                    GPT-NeoX
                        ├─ norm ─ mlp ────────┘   │
                        └─────────────────────────┘
"""

import keras

from tfgpt.config import ModelConfig, Residual
from tfgpt.layers.attention import SelfAttention
from tfgpt.layers.mlp import make_mlp
from tfgpt.layers.norms import make_norm


class Block(keras.layers.Layer):
    """Base of the four wirings: `[B, S, E]` -> `[B, S, E]`, with this layer's `Past` in and out."""

    norm_names = ("attention_norm", "mlp_norm")

    def __init__(self, config: ModelConfig, layer: int, **kwargs):
        super().__init__(**kwargs)
        self.attention = SelfAttention(config, layer, name="attention", dtype=self.dtype_policy)
        self.mlp = make_mlp(config, name="mlp", dtype=self.dtype_policy)
        for name in self.norm_names:
            setattr(self, name, make_norm(config, name=name, dtype=self.dtype_policy))
        rate, _, _ = config.rates
        self.dropout = (
            keras.layers.Dropout(rate, name="dropout", dtype=self.dtype_policy) if rate else _identity
        )

    def build(self, input_shape):
        self.attention.build(input_shape)
        self.mlp.build(input_shape)
        for name in self.norm_names:
            getattr(self, name).build(input_shape)
        self.built = True

    def _attend(self, x, inputs, past, training):
        x, present = self.attention(x, inputs, past, training=training)
        return self.dropout(x, training=training), present

    def _feed(self, x, training):
        return self.dropout(self.mlp(x), training=training)


class PreNormBlock(Block):
    """`PRE_NORM` above."""

    def call(self, x, inputs, past, training=None):
        attended, present = self._attend(self.attention_norm(x), inputs, past, training)
        x = x + attended
        return x + self._feed(self.mlp_norm(x), training), present


class PostNormBlock(Block):
    """`POST_NORM` above."""

    def call(self, x, inputs, past, training=None):
        attended, present = self._attend(x, inputs, past, training)
        x = self.attention_norm(x + attended)
        return self.mlp_norm(x + self._feed(x, training)), present


class ParallelOneNormBlock(Block):
    """`PARALLEL_ONE_NORM` above."""

    norm_names = ("attention_norm",)

    def call(self, x, inputs, past, training=None):
        normed = self.attention_norm(x)
        attended, present = self._attend(normed, inputs, past, training)
        return x + attended + self._feed(normed, training), present


class ParallelTwoNormsBlock(Block):
    """`PARALLEL_TWO_NORMS` above."""

    def call(self, x, inputs, past, training=None):
        attended, present = self._attend(self.attention_norm(x), inputs, past, training)
        return x + attended + self._feed(self.mlp_norm(x), training), present


_BLOCKS = {
    Residual.PRE_NORM: PreNormBlock,
    Residual.POST_NORM: PostNormBlock,
    Residual.PARALLEL_ONE_NORM: ParallelOneNormBlock,
    Residual.PARALLEL_TWO_NORMS: ParallelTwoNormsBlock,
}


def make_block(config: ModelConfig, layer: int, **kwargs) -> Block:
    """Block number `layer`, counted from 0, in the wiring of the model."""
    return _BLOCKS[config.residual](config, layer, **kwargs)


def _identity(x, training=None):
    return x
