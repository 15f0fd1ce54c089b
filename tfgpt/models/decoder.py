"""The one decoder of the whole family."""

import keras
from keras import ops as keras_ops

from tfgpt import ops
from tfgpt.config import ModelConfig, Positions, Residual
from tfgpt.layers.attention import rotary_spec
from tfgpt.layers.block import make_block
from tfgpt.layers.cache import NoCache
from tfgpt.layers.embeddings import Embedding
from tfgpt.layers.norms import make_norm


class Decoder(keras.layers.Layer):
    """Embeddings, blocks and the final norm: token ids `[B, S]` -> hidden states `[B, S, E]`.

    Which layers there are is decided here once, from the config; `call` only runs them.
    """

    def __init__(self, config: ModelConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.supports_masking = True
        own = {"dtype": self.dtype_policy}
        sigma = config.initializer_range
        self.token_embedding = Embedding(
            config.vocabulary_size, config.hidden_dim, sigma, name="token_embedding", **own
        )
        self.position_embedding = None
        if config.positions is Positions.LEARNED:
            self.position_embedding = Embedding(
                config.context_length, config.hidden_dim, sigma, name="position_embedding", **own
            )
        _, _, rate = config.rates
        self.dropout = keras.layers.Dropout(rate, name="dropout", **own) if rate else None
        self.blocks = [make_block(config, i, name=f"block_{i}", **own) for i in range(config.num_layers)]
        # A post-norm block ends in a norm of its own.
        has_final_norm = config.residual is not Residual.POST_NORM
        self.final_norm = make_norm(config, name="final_norm", **own) if has_final_norm else None
        self.windows = tuple(dict.fromkeys(config.window_of(i) for i in range(config.num_layers)))
        self.rotary = rotary_spec(config)

    def build(self, input_shape):
        hidden_shape = (*input_shape, self.config.hidden_dim)
        self.token_embedding.build(input_shape)
        if self.position_embedding is not None:
            self.position_embedding.build(input_shape)
        for block in self.blocks:
            block.build(hidden_shape)
        if self.final_norm is not None:
            self.final_norm.build(hidden_shape)
        self.built = True

    def call(self, token_ids, positions=None, mask=None, cache=None, training=None):
        """Runs the decoder.

        Args:
            token_ids: int `[B, S]`.
            positions: int `[B, S]`; `None` derives them from the mask, or counts on from the cache.
            mask: int or bool `[B, T]` over cached and new slots, 1 for real tokens; `None`: all are real.
            cache: a `GrowingCache`, a `FixedCache`, or `None`.

        Returns:
            hidden states `[B, S, E]` and the cache after these tokens (`NoCache` when none was given).
        """
        cache = NoCache() if cache is None else cache
        past = cache.layer(0)
        if positions is None:
            positions = derive_positions(token_ids, mask, past)
        inputs = ops.attention_inputs(positions, mask, past, self.windows, self.rotary)
        x = self.token_embedding(token_ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        if self.dropout is not None:
            x = self.dropout(x, training=training)
        pasts = []
        for index, block in enumerate(self.blocks):
            x, present = block(x, inputs, cache.layer(index), training=training)
            pasts.append(present)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x, cache.after(pasts)

    def compute_mask(self, inputs, previous_mask=None):
        # The mask is an argument like any other; Keras must not hang it on the hidden states.
        return None


def derive_positions(token_ids, mask, past):
    """int `[B or 1, S]`: a token's position is the number of real tokens before it in its row.

    Without padding all rows share theirs, and the gradient of the position table is a sum over rows instead
    of a scatter. Padding takes the position of the next real token, or 0, as transformers' generation does.
    """
    batch_size, length = keras_ops.shape(token_ids)[0], keras_ops.shape(token_ids)[1]
    if mask is None:
        return (past.num_slots_before + keras_ops.arange(length))[None, :]
    counted = keras_ops.maximum(keras_ops.cumsum(keras_ops.cast(mask, "int32"), axis=1) - 1, 0)  # [B, T]
    start = (0, past.num_slots_before)
    return keras_ops.slice(counted, start, (batch_size, length))
