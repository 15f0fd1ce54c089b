"""Decoding with caches that are written in place: nothing is copied from one step to the next.

One buffer per layer and kind is bound as past AND as present. The columns of a batch of two, rows padded on
the left, capacity 8, after one step:

    column   0   1   2   3   4   5   6   7
    row 0    t   t   t   t   n   .   .   .      t prompt, n new, . not written yet
    row 1    p   p   t   t   n   .   .   .      p padding, masked

    Rows 0 and 1 of every buffer are bound. When row 0 finishes, row 1 is copied over it, and row 0 alone is
    bound from then on.
"""

import numpy as np

from tfgpt.generation.padding import position_ids
from tfgpt.serving.graph import CacheGraph
from tfgpt.serving.runtime import bind_input, bind_output

# Logits come for all positions; a long prompt goes in chunks so that they never take more than this.
LARGEST_LOGITS_BYTES = 64 * 2**20
LARGEST_CHUNK = 512
# Reading all weights once costs about as much as computing this many tokens (GPT-2 124m, 2 cores).
TOKENS_WORTH_ONE_RUN = 16
_CAPACITY_STEP = 64


class SharedCacheDecoder:
    """A `tfgpt.generation.loop.Decoder` over a graph with GroupQueryAttention.

    The buffers are kept from one prompt to the next and grow to the largest batch and length seen.
    """

    def __init__(self, graph: CacheGraph, context_length: int):
        self.vocabulary_size = graph.vocabulary_size
        self.context_length = context_length
        self._graph = graph
        self._capacity = 0
        self._caches: list[
            np.ndarray
        ] = []  # past.0.key, past.0.value, ...: [rows, kv_heads, capacity, head_dim]
        self._logits = np.empty(0, graph.logits_dtype)
        self._padding = np.zeros(0, np.int64)  # columns of padding of each row held
        self._columns = 0
        self._step: _Step | None = None

    def prefill(self, token_ids: np.ndarray, mask: np.ndarray, capacity: int) -> np.ndarray:
        """See `Decoder.prefill`."""
        num_rows, self._columns = token_ids.shape
        self._reserve(num_rows, capacity)
        self._padding = self._columns - mask.sum(axis=1)
        self._step = None
        lengths = self._columns - self._padding
        apart = int(lengths.sum()) + TOKENS_WORTH_ONE_RUN * num_rows
        together = token_ids.size + TOKENS_WORTH_ONE_RUN
        if num_rows > 1 and together <= apart and token_ids.size <= self._chunk():
            return self._run(slice(0, num_rows), token_ids, position_ids(mask), mask)[:, -1]
        # GroupQueryAttention takes several new tokens after a past for one row only, so long prompts go row
        # by row. That also leaves their padding out.
        rows = [self._prefill_row(row, token_ids[row : row + 1]) for row in range(num_rows)]
        return rows[0] if num_rows == 1 else np.concatenate(rows)

    def step(self, token_ids: np.ndarray) -> np.ndarray:
        """See `Decoder.step`."""
        if self._columns >= self._capacity:
            self._grow()
        if self._step is None:
            self._step = _Step(self, len(self._padding))
        self._columns += 1
        return self._step.run(token_ids)

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """See `Decoder.keep`: rows from the end are copied into the gaps, so that few are."""
        order = np.arange(len(rows))
        kept = set(rows.tolist())
        gaps = [place for place in order.tolist() if place not in kept]
        moved = [row for row in rows.tolist() if row >= len(rows)]
        for place, row in zip(gaps, moved, strict=True):
            order[place] = row
            for cache in self._caches:
                cache[place, :, : self._columns] = cache[row, :, : self._columns]
        self._padding = self._padding[order]
        self._step = None
        return order

    def _prefill_row(self, row: int, token_ids: np.ndarray) -> np.ndarray:
        """Writes one row's prompt behind its padding; token_ids [1, length] -> logits [1, vocabulary]."""
        padding = int(self._padding[row])
        for cache in self._caches:
            # Masked values count as 0 times themselves, which a NaN left by an earlier prompt would survive.
            cache[row, :, :padding] = 0
        mask = np.ones((1, self._columns), np.int64)
        mask[:, :padding] = 0
        for start in range(padding, self._columns, self._chunk()):
            end = min(start + self._chunk(), self._columns)
            positions = np.arange(start - padding, end - padding)[None]
            logits = self._run(
                slice(row, row + 1), token_ids[:, start:end], positions, mask[:, :end].copy()
            )  # [1, chunk, vocabulary]
        return logits[:, -1].copy()

    def _run(self, rows: slice, token_ids, positions, mask) -> np.ndarray:
        """One run over new columns; the logits [rows, new, vocabulary] are a view of the reused buffer."""
        binding = self._graph.session.io_binding()
        arrays = {
            "input_ids": np.ascontiguousarray(token_ids),
            "position_ids": np.ascontiguousarray(positions),
            "attention_mask": mask,
        }
        for name, array in arrays.items():
            bind_input(binding, name, array)
        self.bind_caches(binding, rows)
        logits = self.logits_buffer(*token_ids.shape)
        bind_output(binding, "logits", logits)
        self._graph.session.run_with_iobinding(binding)
        return logits

    def bind_caches(self, binding, rows: slice) -> None:
        """Binds these rows of every buffer as past and as present."""
        for cache, (past, present) in zip(self._caches, self._graph.cache_names, strict=True):
            bind_input(binding, past, cache[rows])
            bind_output(binding, present, cache[rows])

    def logits_buffer(self, num_rows: int, length: int) -> np.ndarray:
        """[rows, length, vocabulary], over the same memory at every call unless it must grow."""
        size = num_rows * length * self.vocabulary_size
        if self._logits.size < size:
            self._logits = np.empty(size, self._graph.logits_dtype)
        return self._logits[:size].reshape(num_rows, length, self.vocabulary_size)

    def _chunk(self) -> int:
        row_bytes = self.vocabulary_size * np.dtype(self._graph.logits_dtype).itemsize
        return max(1, min(LARGEST_CHUNK, LARGEST_LOGITS_BYTES // row_bytes))

    def _reserve(self, num_rows: int, capacity: int) -> None:
        """Buffers for a new batch; those of the last one are used again if they are large enough."""
        old_rows = len(self._caches[0]) if self._caches else 0
        if num_rows > old_rows or capacity > self._capacity:
            self._caches = []  # freed before the larger ones are made
            self._allocate(max(num_rows, old_rows), max(capacity, self._capacity))

    def _grow(self) -> None:
        """Twice the capacity, for callers that went past the one they had announced."""
        old = self._caches
        self._allocate(len(old[0]), 2 * self._capacity)
        for grown, cache in zip(self._caches, old, strict=True):
            grown[:, :, : cache.shape[2]] = cache

    def _allocate(self, num_rows: int, capacity: int) -> None:
        self._capacity = -(-capacity // _CAPACITY_STEP) * _CAPACITY_STEP
        shape = (num_rows, self._graph.num_key_value_heads, self._capacity, self._graph.head_dim)
        # Zeros are only mapped: memory is taken when a column is written.
        self._caches = [np.zeros(shape, self._graph.dtype) for _ in self._graph.cache_names]
        self._step = None


class _Step:
    """One new token for each row, bound once: only the values of small arrays and the mask's width change."""

    def __init__(self, decoder: SharedCacheDecoder, num_rows: int):
        self._decoder = decoder
        self._session = decoder._graph.session
        self._padding = decoder._padding[:, None]  # [rows, 1]
        self._token_ids = np.zeros((num_rows, 1), np.int64)
        self._positions = np.zeros((num_rows, 1), np.int64)
        self._columns = np.arange(decoder._capacity)
        self._mask = np.ones(num_rows * decoder._capacity, np.int64)
        self._has_padding = bool(self._padding.any())
        self._logits = decoder.logits_buffer(num_rows, 1)
        self._binding = self._session.io_binding()
        bind_input(self._binding, "input_ids", self._token_ids)
        bind_input(self._binding, "position_ids", self._positions)
        bind_output(self._binding, "logits", self._logits)
        decoder.bind_caches(self._binding, slice(0, num_rows))

    def run(self, token_ids: np.ndarray) -> np.ndarray:
        width = self._decoder._columns
        self._token_ids[:, 0] = token_ids
        np.subtract(width - 1, self._padding, out=self._positions)
        mask = self._mask[: self._token_ids.size * width].reshape(-1, width)
        if self._has_padding:
            np.greater_equal(self._columns[:width], self._padding, out=mask, casting="unsafe")
        bind_input(self._binding, "attention_mask", mask)
        self._session.run_with_iobinding(self._binding)
        return self._logits[:, 0]
