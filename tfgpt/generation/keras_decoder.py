"""The generate loop's decoder over a Keras model, compiled once.

    TensorFlow   one `tf.function` with every dimension open and a growing cache: traced once for all prompts,
                 batches and steps, and attention looks at no empty slots
    JAX          one `jax.jit` with a cache of fixed capacity; shapes are static there, so prompt lengths and
                 capacities are rounded up to powers of two: a new pair compiles twice (prefill and step), and
                 nothing compiles during a text
    others       the model as it is, with a growing cache

Only the last column goes through the head, so a long prompt makes no [batch, length, vocabulary] array.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from tfgpt.generation.loop import Generation, OnToken, generate
from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.padding import position_ids

_SMALLEST_CAPACITY = 64
_SMALLEST_PROMPT = 16


def generate_with_keras(
    model,
    prompts,
    options: GenerationOptions | None = None,
    tokenizer=None,
    on_token: OnToken | None = None,
) -> list[Generation]:
    """Continues prompts with a `CausalLM`; arguments, result and errors are those of `generate`.

    Options that leave `end_of_text_ids` open get that of the model's config, as a session's get the export's.
    """
    options = options or GenerationOptions()
    end = model.config.eos_token_id
    if options.end_of_text_ids is None and end is not None:
        options = dataclasses.replace(options, end_of_text_ids=(end,))
    return generate(KerasDecoder(model), prompts, options, tokenizer, on_token)


class KerasDecoder:
    """A `tfgpt.generation.loop.Decoder` over a `CausalLM`.

    The compiled function stays with the model, so later calls do not trace again; changed weights are seen.
    """

    def __init__(self, model):
        self.vocabulary_size = model.config.vocabulary_size
        self.context_length = model.config.context_length
        self._model = model
        self._advance = compiled_advance(model)
        self._has_static_shapes = keras.config.backend() == "jax"
        self._padding = np.zeros((0, 1), np.int64)  # columns of padding of each row, [batch, 1]
        self._mask = np.zeros((0, 0), np.int32)  # [batch, columns], with static shapes [batch, capacity]
        self._cache = None
        self._columns = 0

    def prefill(self, token_ids: np.ndarray, mask: np.ndarray, capacity: int) -> np.ndarray:
        """See `Decoder.prefill`."""
        num_new = capacity - token_ids.shape[1]
        capacity = None
        if self._has_static_shapes:
            # The model refuses more columns than its context; a prompt always has fewer.
            length = min(_power_of_two(token_ids.shape[1], _SMALLEST_PROMPT), self.context_length)
            more = ((0, 0), (length - token_ids.shape[1], 0))
            token_ids, mask = np.pad(token_ids, more), np.pad(mask, more)
            capacity = _power_of_two(length + num_new, _SMALLEST_CAPACITY)
        batch_size, self._columns = token_ids.shape
        self._padding = self._columns - mask.sum(axis=1, keepdims=True)
        self._mask = mask.astype(np.int32)
        if capacity is not None:
            # Slots behind the last token are hidden by causality: one mask serves all steps.
            self._mask = _padded_with_ones(self._mask, capacity - self._columns)
        self._cache = self._model.empty_cache(batch_size, capacity)
        return self._run(token_ids, position_ids(mask))

    def step(self, token_ids: np.ndarray) -> np.ndarray:
        """See `Decoder.step`; ValueError past the capacity given to `prefill`, where shapes are static."""
        # A row that has filled its context may still be computed while others go on.
        positions = np.minimum(self._columns - self._padding, self.context_length - 1)
        self._columns += 1
        if not self._has_static_shapes:
            self._mask = _padded_with_ones(self._mask, 1)
        elif self._columns > self._mask.shape[1]:
            raise ValueError(f"found {self._columns} columns, expected at most {self._mask.shape[1]}")
        return self._run(token_ids[:, None], positions)

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """See `Decoder.keep`: rows are dropped unless that would compile for another batch size."""
        if self._has_static_shapes:
            return np.arange(len(self._padding))
        self._padding = self._padding[rows]
        self._mask = self._mask[rows]
        keys, values = (
            tuple(ops.take(part, rows, axis=0) for part in parts)
            for parts in (self._cache.keys, self._cache.values)
        )
        self._cache = self._cache._replace(keys=keys, values=values)
        return rows

    def _run(self, token_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """New columns [batch, length] -> float32 logits of the last one [batch, vocabulary]."""
        logits, self._cache = self._advance(
            token_ids.astype(np.int32), positions.astype(np.int32), self._mask, self._cache
        )
        return ops.convert_to_numpy(logits)


def _power_of_two(size: int, smallest: int) -> int:
    return max(smallest, 1 << (size - 1).bit_length())


def _padded_with_ones(mask: np.ndarray, columns: int) -> np.ndarray:
    return np.pad(mask, ((0, 0), (0, columns)), constant_values=1)


def compiled_advance(model):
    """`advance` of this model, compiled for the backend; made once and kept beside the model's attributes."""
    # Written past Keras's attribute tracking: it is no layer and no state.
    if "_generation_advance" not in model.__dict__:
        make = {"tensorflow": _on_tensorflow, "jax": _on_jax}.get(keras.config.backend(), _uncompiled)
        model.__dict__["_generation_advance"] = make(model)
    return model.__dict__["_generation_advance"]


def _uncompiled(model):
    def advance(token_ids, positions, mask, cache):
        """int32 [batch, length] twice and [batch, slots], cache -> float32 [batch, vocabulary], cache."""
        hidden, cache = model.decoder(token_ids, positions=positions, mask=mask, cache=cache, training=False)
        last = hidden[:, -1:]  # [batch, 1, hidden]
        logits = model.decoder.token_embedding.project(last) if model.head is None else model.head(last)
        return ops.cast(logits[:, 0], "float32"), cache

    return advance


def _on_tensorflow(model):
    import tensorflow as tf

    def opened(tensor):
        # Rows and columns may change, the numbers of heads and of features not.
        return tf.TensorSpec([None, tensor.shape[1], None, tensor.shape[3]], tensor.dtype)

    integers = tf.TensorSpec([None, None], tf.int32)
    cache = tf.nest.map_structure(opened, model.empty_cache(1))
    return tf.function(
        _uncompiled(model), input_signature=[integers, integers, integers, cache], autograph=False
    )


def _on_jax(model):
    import jax

    advance = _uncompiled(model)
    variables = model.variables

    def with_weights(weights, *arguments):
        # As arguments the weights are no constants of the program, and training changes what they are.
        with keras.StatelessScope(state_mapping=zip(variables, weights, strict=True)):
            return advance(*arguments)

    # The old cache is given up, so the new one is written over it.
    compiled = jax.jit(with_weights, donate_argnums=4)

    def call(*arguments):
        return compiled([variable.value for variable in variables], *arguments)

    call.compiled = compiled
    return call
