"""The generate loop within TensorFlow's graph: what a SavedModel needs to write text by itself.

    ids, mask -> every row's padding to its left -> prefill -> choose -+-> tokens, lengths
                                                       ^               |
                                                       +---- step <----+   while a row goes on

It does what `tfgpt.generation.loop.generate` does, over the same compiled step, so it gives the same tokens.
Rows that have ended are computed on until the last one ends, and what they give is thrown away.

Letters: B rows, S prompt columns, T columns so far, N new tokens.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt.generation.keras_decoder import compiled_advance
from tfgpt.layers.cache import GrowingCache
from tfgpt.models.causal_lm import CausalLM
from tfgpt_export.graph_sampling import RowOptions, choose, uniform


class GraphGenerator:
    """`generator(input_ids, attention_mask, options)` within a `tf.function`; see `__call__`."""

    def __init__(self, model: CausalLM):
        config = model.config
        self.empty_cache = model.empty_cache
        self.advance = compiled_advance(model)
        self.context_length = config.context_length
        self.vocabulary_size = config.vocabulary_size
        known = (config.pad_token_id, config.eos_token_id, 0)
        self.padding_id = next(token for token in known if token is not None)

    def __call__(self, input_ids, attention_mask, options: RowOptions) -> tuple[tf.Tensor, tf.Tensor]:
        """Continues every row.

        Args:
            input_ids, attention_mask: int64 `[B, S]`, the mask 0 on padding, which may stand anywhere.
            options: each part `[B]`, or `[1]` for all rows alike.

        Returns:
            new tokens, int64 `[B, N]`, the end of text that ended a row included and padding behind it; and
            how many they are, int64 `[B]`. N is the longest row's.

        Raises:
            tf.errors.InvalidArgumentError: a mask of another shape, ids outside of the vocabulary, a prompt
                that leaves no room, an empty one without an end of text to start from, an option out of
                range, or logits that are not finite.
        """
        same = tf.reduce_all(tf.shape(input_ids) == tf.shape(attention_mask))
        sizes = ["found ids of shape", tf.shape(input_ids), "and a mask of", tf.shape(attention_mask)]
        with tf.control_dependencies([tf.debugging.Assert(same, sizes)]):
            input_ids, attention_mask = tf.identity(input_ids), tf.identity(attention_mask)
        rows = tf.shape(input_ids)[:1]
        options = RowOptions(*(tf.broadcast_to(part, rows) for part in options))
        token_ids, lengths = _padded_on_the_left(input_ids, attention_mask, options.end_of_text_id)
        checks = [*_option_checks(options), *self._prompt_checks(token_ids, lengths)]
        with tf.control_dependencies(checks):
            token_ids, lengths = tf.identity(token_ids), tf.identity(lengths)
        loop = _Loop(self, options, lengths, tf.shape(token_ids, tf.int64)[1])
        state = loop.first(token_ids, self.empty_cache(rows[0]))
        shapes = _open_shapes(state)
        state = tf.while_loop(
            lambda *state: tf.reduce_any(_State(*state).going),
            lambda *state: loop.next(_State(*state)),
            state,
            shape_invariants=shapes,
        )
        return state.tokens, state.counts

    def _prompt_checks(self, token_ids, lengths) -> list[tf.Operation]:
        # An empty prompt has become its row's end of text, so one without has an id that is none.
        found = "found an empty prompt without end_of_text_id, or a token id outside of the vocabulary of"
        known = (token_ids >= 0) & (token_ids < self.vocabulary_size)
        most = tf.reduce_max(lengths)
        too_long = ["found a prompt of", most, "tokens, expected at most", self.context_length - 1]
        return [
            tf.debugging.Assert(tf.reduce_all(known), [found, self.vocabulary_size]),
            tf.debugging.Assert(most < self.context_length, too_long),
        ]


class _State(NamedTuple):
    """What goes round: how many new tokens there are, all of them `[B, N]`, each row's count `[B]`, which
    rows go on `[B]`, the mask `[B, T]` and the cache, which lack the newest token."""

    number: Any
    tokens: Any
    counts: Any
    going: Any
    mask: Any
    cache: Any


class _Loop:
    """The prefill and the step, with what stays the same all along."""

    def __init__(self, generator: GraphGenerator, options: RowOptions, lengths, columns):
        self._generator = generator
        self._options = options
        self._limits = tf.minimum(options.max_new_tokens, generator.context_length - lengths)  # [B]
        self._points = uniform(options.seed, tf.range(tf.reduce_max(self._limits)))  # [B, N]
        self._lengths = lengths
        self._padding = columns - lengths  # [B]

    def first(self, token_ids, cache) -> _State:
        """The prefill, and the first new token."""
        mask = _last(self._lengths, tf.shape(token_ids)[1])  # [B, S]
        positions = tf.maximum(tf.cumsum(mask, axis=1) - 1, 0)
        logits, cache = self._generator.advance(tf.cast(token_ids, tf.int32), positions, mask, cache)
        every = tf.ones_like(self._lengths, tf.bool)
        tokens, going = self._chosen(logits, tf.constant(0, tf.int64), every)
        return _State(
            tf.constant(1, tf.int64), tokens, tf.ones_like(self._lengths), going, mask, GrowingCache(*cache)
        )

    def next(self, state: _State) -> _State:
        """One more token of every row that goes on, and padding for the others."""
        mask = tf.pad(state.mask, [[0, 0], [0, 1]], constant_values=1)
        # A row that has filled its context is still computed while others go on.
        position = tf.minimum(
            tf.shape(mask, tf.int64)[1] - 1 - self._padding, self._generator.context_length - 1
        )
        newest, position = tf.cast(state.tokens[:, -1:], tf.int32), tf.cast(position, tf.int32)[:, None]
        logits, cache = self._generator.advance(newest, position, mask, state.cache)
        column, going = self._chosen(logits, state.number, state.going)
        tokens = tf.concat([state.tokens, column], axis=1)
        counts = state.counts + tf.cast(state.going, tf.int64)
        return _State(state.number + 1, tokens, counts, going, mask, GrowingCache(*cache))

    def _chosen(self, logits, number, going) -> tuple[tf.Tensor, tf.Tensor]:
        """New tokens int64 `[B, 1]` of logits `[B, V]`, and which rows go on after them, bool `[B]`."""
        logits = tf.debugging.check_numerics(logits, "found NaN or infinite logits, expected finite ones")
        tokens = choose(logits, self._points[:, number], self._options)
        goes_on = (tokens != self._options.end_of_text_id) & (number + 1 < self._limits)
        return tf.where(going, tokens, self._generator.padding_id)[:, None], going & goes_on


def _padded_on_the_left(input_ids, attention_mask, end_of_text_id) -> tuple[tf.Tensor, tf.Tensor]:
    """Ids int64 `[B, S]` with padding, id 0, on the left only, as many columns as the longest row has tokens;
    and the rows' lengths int64 `[B]`. A row without tokens starts from its end of text."""
    before = [[0, 0], [1, 0]]
    real = tf.pad(attention_mask != 0, before)
    order = tf.argsort(tf.cast(real, tf.int32), axis=1, stable=True)  # padding first
    token_ids = tf.gather(tf.pad(input_ids, before), order, batch_dims=1)
    counts = tf.reduce_sum(tf.cast(real, tf.int64), axis=1)
    newest = tf.where(counts == 0, end_of_text_id, token_ids[:, -1])
    token_ids = tf.concat([token_ids[:, :-1], newest[:, tf.newaxis]], axis=1)
    lengths = tf.maximum(counts, 1)
    token_ids = token_ids[:, -tf.reduce_max(lengths) :]
    is_token = _last(lengths, tf.shape(token_ids)[1]) != 0
    return tf.where(is_token, token_ids, tf.zeros_like(token_ids)), lengths


def _last(lengths: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """int32 `[B, columns]`: 1 at the last `lengths` int64 `[B]` columns."""
    return tf.reverse(tf.sequence_mask(lengths, columns, tf.int32), axis=[1])


def _option_checks(options: RowOptions) -> list[tf.Operation]:
    """InvalidArgumentError for what `GenerationOptions` refuses."""
    expected = (
        (options.max_new_tokens >= 1, "max_new_tokens of at least 1"),
        ((options.temperature >= 0) & (options.temperature < float("inf")), "a temperature of at least 0"),
        (options.top_k >= 0, "top_k of at least 0"),
        ((options.top_p > 0) & (options.top_p <= 1), "top_p above 0 and at most 1"),
    )
    return [
        tf.debugging.Assert(tf.reduce_all(holds), [f"found an option out of range, expected {what}"])
        for holds, what in expected
    ]


def _open_shapes(state: _State) -> _State:
    """The state's shapes with every number of rows and columns open, as they change from step to step."""
    row, table = tf.TensorShape([None]), tf.TensorShape([None, None])

    def slots(tensor):
        return tf.TensorShape([None, tensor.shape[1], None, tensor.shape[3]])

    cache = GrowingCache(*(tuple(slots(each) for each in part) for part in state.cache))
    return _State(tf.TensorShape([]), table, row, row, table, cache)


def default_options(model: CausalLM) -> RowOptions:
    """Greedy, 64 new tokens and the config's end of text, `[1]` each."""
    end = model.config.eos_token_id
    integers = {"max_new_tokens": 64, "top_k": 0, "seed": 0, "end_of_text_id": -1 if end is None else end}
    numbers = {"temperature": 0.0, "top_p": 1.0}
    return RowOptions(
        **{name: tf.constant([value], tf.int64) for name, value in integers.items()},
        **{name: tf.constant([value], tf.float32) for name, value in numbers.items()},
    )
