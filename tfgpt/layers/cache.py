"""The key-value cache as a value: given to `call`, returned by it, never hidden in a layer.

    GrowingCache     slots are appended: [B, K, past, D] + [B, K, S, D] -> [B, K, past + S, D]
    FixedCache       slots are written in place of empty ones, so shapes never change while generating:

        slot     0   1   2   3   4   5   6   7      capacity 8, length 5
        before   x   x   x   x   x   .   .   .
        after    x   x   x   x   x   n   n   .      two new tokens, length 7

Both hold one pair of tensors per layer. A `Past` is one layer's view of either, or of no cache at all.
"""

from typing import Any, NamedTuple

from keras import ops

from tfgpt.errors import InputError


class Past(NamedTuple):
    """No cache: the tokens of this call are all there is."""

    is_empty = True

    @property
    def num_slots_before(self):
        return 0

    def num_slots_after(self, num_new):
        return num_new

    def append(self, key, value):
        """New key and value `[B, K, S, D]` -> all keys, all values, the `Past` afterwards."""
        return key, value, self


class GrowingPast(NamedTuple):
    """One layer of a `GrowingCache`: key and value `[B, K, past, D]`."""

    key: Any
    value: Any
    is_empty = False

    @property
    def num_slots_before(self):
        return ops.shape(self.key)[2]

    def num_slots_after(self, num_new):
        return self.num_slots_before + num_new

    def append(self, key, value):
        """New key and value `[B, K, S, D]` -> all keys and values `[B, K, past + S, D]`, and the present."""
        present = GrowingPast(
            ops.concatenate([self.key, key], axis=2), ops.concatenate([self.value, value], axis=2)
        )
        return present.key, present.value, present


class FixedPast(NamedTuple):
    """One layer of a `FixedCache`: key and value `[B, K, capacity, D]`, of which `length` slots are taken."""

    key: Any
    value: Any
    length: Any
    is_empty = False

    @property
    def num_slots_before(self):
        return self.length

    def num_slots_after(self, num_new):
        return ops.shape(self.key)[2]

    def append(self, key, value):
        """New key and value `[B, K, S, D]` -> whole buffers `[B, K, capacity, D]`, and the present."""
        start = (0, 0, self.length, 0)
        present = FixedPast(
            ops.slice_update(self.key, start, key),
            ops.slice_update(self.value, start, value),
            self.length + ops.shape(key)[2],
        )
        return present.key, present.value, present


class GrowingCache(NamedTuple):
    """Keys and values of every layer, each `[B, K, past, D]`."""

    keys: tuple
    values: tuple

    def layer(self, index: int) -> GrowingPast:
        """The part that layer `index` reads."""
        return GrowingPast(self.keys[index], self.values[index])

    def after(self, pasts: list[GrowingPast]) -> "GrowingCache":
        """The cache that the next call gets, from what each layer returned."""
        return GrowingCache(tuple(past.key for past in pasts), tuple(past.value for past in pasts))


class FixedCache(NamedTuple):
    """Keys and values of every layer, each `[B, K, capacity, D]`, and the number of slots taken (int32).

    Tokens past the capacity are an InputError where the length is a number. Within a compiled function it is
    not known, and `slice_update` clamps: the last slots would be overwritten. Callers there count themselves.
    """

    keys: tuple
    values: tuple
    length: Any

    def layer(self, index: int) -> FixedPast:
        """The part that layer `index` reads."""
        return FixedPast(self.keys[index], self.values[index], self.length)

    def after(self, pasts: list[FixedPast]) -> "FixedCache":
        """The cache that the next call gets, from what each layer returned."""
        length, capacity = _known(pasts[-1].length), pasts[-1].key.shape[2]
        if length is not None and length > capacity:
            raise InputError(
                f"found {length} tokens for a cache with a capacity of {capacity}, expected no more; "
                "make a larger one, or give fewer tokens"
            )
        keys, values = tuple(past.key for past in pasts), tuple(past.value for past in pasts)
        return FixedCache(keys, values, pasts[-1].length)


def _known(number) -> int | None:
    """The value of an eager scalar; None while a graph is made, of which it is a part."""
    try:
        return int(number)
    except TypeError:  # TensorFlow's and JAX's own errors for it are kinds of this
        return None


class NoCache(NamedTuple):
    """Stands for a cache where none is kept."""

    def layer(self, index: int) -> Past:
        """The empty past."""
        return Past()

    def after(self, pasts: list[Past]) -> "NoCache":
        """Still nothing."""
        return self


def empty_cache(config, batch_size: int, capacity: int | None = None, dtype: str = "float32"):
    """A cache without tokens: growing, or of a fixed capacity when `capacity` is given.

    Args:
        config: the model's `ModelConfig`.
        batch_size: rows.
        capacity: slots of a `FixedCache`.
        dtype: the model's compute dtype.
    """
    shape = (batch_size, config.num_key_value_heads, capacity or 0, config.head_dim)
    keys = tuple(ops.zeros(shape, dtype) for _ in range(config.num_layers))
    values = tuple(ops.zeros(shape, dtype) for _ in range(config.num_layers))
    if capacity is None:
        return GrowingCache(keys, values)
    return FixedCache(keys, values, ops.cast(0, "int32"))
