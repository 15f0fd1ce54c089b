"""Choosing the next token within TensorFlow's graph, as `tfgpt.generation.samplers` does.

    temperature -> top-k -> top-p -> one draw          (temperature 0: the largest logit)

The same seed draws the same token as there, since the numbers come from the same generator. Every row has its
own options, and none sees another. min-p and the repetition penalty are not covered.

Letters: B rows, V vocabulary, N new tokens.
"""

from typing import Any, NamedTuple

import tensorflow as tf

# Philox4x64-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", as NumPy has it.
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW_HALF = 0xFFFFFFFF


class RowOptions(NamedTuple):
    """How each row goes on, `[B]` each; see `GenerationOptions`, whose meaning and order these have.

    `max_new_tokens`, `top_k`, `seed`, `end_of_text_id` int64, `temperature`, `top_p` float32. An
    `end_of_text_id` of -1 ends no row.
    """

    max_new_tokens: Any
    temperature: Any
    top_k: Any
    top_p: Any
    seed: Any
    end_of_text_id: Any


def choose(logits: tf.Tensor, points: tf.Tensor, options: RowOptions) -> tf.Tensor:
    """The next token of each row: logits float32 `[B, V]`, `uniform` points float64 `[B]` -> int64 `[B]`."""
    samples = options.temperature > 0
    greedy = tf.argmax(logits, axis=1)

    def drawn():
        scaled = logits / tf.where(samples, options.temperature, 1.0)[:, tf.newaxis]
        filters = (options.top_k > 0) | (options.top_p < 1)
        kept = tf.cond(tf.reduce_any(samples & filters), lambda: _filtered(scaled, options), lambda: scaled)
        return tf.where(samples, _draw(kept, points), greedy)

    return tf.cond(tf.reduce_any(samples), drawn, lambda: greedy)


def _filtered(logits: tf.Tensor, options: RowOptions) -> tf.Tensor:
    """float32 `[B, V]` with -inf at what top-k, then top-p remove; ties are treated as `samplers` does."""
    size = tf.shape(logits, tf.int64)[1]
    best_first = tf.sort(logits, direction="DESCENDING")  # [B, V]
    last = tf.where(options.top_k > 0, tf.minimum(options.top_k, size), size) - 1
    smallest = tf.gather(best_first, last, batch_dims=1)[:, tf.newaxis]  # [B, 1]
    kept = logits >= smallest
    best_first = _only(best_first >= smallest, best_first)
    mass = tf.cumsum(tf.cast(tf.exp(best_first - best_first[:, :1]), tf.float64), axis=1)
    wanted = tf.cast(options.top_p, tf.float64)[:, tf.newaxis] * mass[:, -1:]
    count = 1 + _count(mass[:, :-1] < wanted)  # [B], the first token has nothing better
    smallest = tf.gather(best_first, count - 1, batch_dims=1)[:, tf.newaxis]
    ties = logits == smallest
    spare = (count - _count(best_first > smallest))[:, tf.newaxis]
    nucleus = (logits > smallest) | (ties & (tf.cumsum(tf.cast(ties, tf.int64), axis=1) <= spare))
    return _only(kept & (nucleus | (options.top_p >= 1)[:, tf.newaxis]), logits)


def _draw(logits: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """Where the cumulated probabilities pass the points `[B]`: logits float32 `[B, V]` -> int64 `[B]`."""
    shifted = logits - tf.reduce_max(logits, axis=1, keepdims=True)
    mass = tf.cumsum(tf.cast(tf.exp(shifted), tf.float64), axis=1)
    place = _count(mass <= points[:, tf.newaxis] * mass[:, -1:])
    # Rounding of the product may reach the end of the table.
    places = tf.range(tf.shape(logits, tf.int64)[1])
    last = tf.reduce_max(tf.where(tf.math.is_inf(logits), tf.zeros_like(places), places), axis=1)
    return tf.minimum(place, last)


def _only(kept: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.where(kept, logits, -float("inf"))


def _count(true: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(true, tf.int64), axis=1)


def uniform(seeds: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """`samplers.uniform` of every seed and position: int64 `[B]` and `[N]` -> float64 `[B, N]` in [0, 1)."""
    shape = (tf.shape(seeds)[0], tf.shape(positions)[0])
    key = [_unsigned(seeds)[:, tf.newaxis], tf.constant(0, tf.uint64)]
    # NumPy counts on before it draws.
    first = tf.broadcast_to(_unsigned(positions + 1)[tf.newaxis], shape)
    words = [first, *[tf.zeros(shape, tf.uint64)] * 3]
    for _ in range(_ROUNDS):
        high_0, low_0 = _product(words[0], _MULTIPLIERS[0])
        high_2, low_2 = _product(words[2], _MULTIPLIERS[1])
        words = [_xor(_xor(high_2, words[1]), key[0]), low_2, _xor(_xor(high_0, words[3]), key[1]), low_0]
        key = [part + tf.constant(step, tf.uint64) for part, step in zip(key, _KEY_STEPS, strict=True)]
    return tf.cast(tf.bitcast(_shifted(words[0], 11), tf.int64), tf.float64) * 2.0**-53


def _product(words: tf.Tensor, factor: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The high and the low 64 bits of uint64 `words` times `factor`, by halves of 32 bits."""
    low_half = tf.constant(_LOW_HALF, tf.uint64)
    low, high = tf.bitwise.bitwise_and(words, low_half), _shifted(words, 32)
    factor_low, factor_high = (tf.constant(part, tf.uint64) for part in (factor & _LOW_HALF, factor >> 32))
    crossed = [low * factor_high, high * factor_low]
    middle = _shifted(low * factor_low, 32)
    for each in crossed:
        middle += tf.bitwise.bitwise_and(each, low_half)
    top = high * factor_high + _shifted(crossed[0], 32) + _shifted(crossed[1], 32) + _shifted(middle, 32)
    return top, words * tf.constant(factor, tf.uint64)


def _unsigned(numbers: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(numbers, tf.uint64)


def _shifted(words: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(words, tf.constant(bits, tf.uint64))


def _xor(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(left, right)
