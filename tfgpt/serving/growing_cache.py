"""Decoding for graphs whose cache concatenates: each step's present is the next step's past."""

import numpy as np

from tfgpt.generation.padding import position_ids
from tfgpt.serving.graph import CacheGraph
from tfgpt.serving.runtime import bind_input, bind_output
from tfgpt.serving.shared_cache import LARGEST_CHUNK, LARGEST_LOGITS_BYTES


class GrowingCacheDecoder:
    """A `tfgpt.generation.loop.Decoder` over any graph of the common form.

    onnxruntime allocates each present; it is handed back as the past without a copy on this side, though the
    graph itself copies it when it concatenates. Finished rows are computed to the end.
    """

    def __init__(self, graph: CacheGraph, context_length: int):
        self.vocabulary_size = graph.vocabulary_size
        self.context_length = context_length
        self._graph = graph
        self._mask = np.zeros((0, 0), np.int64)  # [batch, columns]
        self._presents: list = []
        self._empty: list[np.ndarray] = []

    def prefill(self, token_ids: np.ndarray, mask: np.ndarray, capacity: int) -> np.ndarray:
        """See `Decoder.prefill`; `capacity` is not needed."""
        num_rows, length = token_ids.shape
        self._mask = mask
        self._presents = []
        shape = (num_rows, self._graph.num_key_value_heads, 0, self._graph.head_dim)
        self._empty = [np.zeros(shape, self._graph.dtype) for _ in self._graph.cache_names]
        positions = position_ids(mask)
        row_bytes = num_rows * self.vocabulary_size * np.dtype(self._graph.logits_dtype).itemsize
        chunk = max(1, min(LARGEST_CHUNK, LARGEST_LOGITS_BYTES // row_bytes))
        for start in range(0, length, chunk):
            columns = slice(start, min(start + chunk, length))
            logits = self._run(token_ids[:, columns], positions[:, columns], mask[:, : columns.stop])
        return logits

    def step(self, token_ids: np.ndarray) -> np.ndarray:
        """See `Decoder.step`."""
        self._mask = np.pad(self._mask, ((0, 0), (0, 1)), constant_values=1)
        # A row that has filled its context is still computed while others go on: its position stays legal.
        positions = np.minimum(position_ids(self._mask)[:, -1:], self.context_length - 1)
        return self._run(token_ids[:, None], positions, self._mask)

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """See `Decoder.keep`: all rows go on."""
        return np.arange(len(self._mask))

    def _run(self, token_ids, positions, mask) -> np.ndarray:
        """One run over new columns -> logits of the last one [batch, vocabulary]."""
        binding = self._graph.session.io_binding()
        arrays = {"input_ids": token_ids, "position_ids": positions, "attention_mask": mask}
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        for name, array in arrays.items():
            bind_input(binding, name, array)
        for index, (past, present) in enumerate(self._graph.cache_names):
            if self._presents:
                binding.bind_ortvalue_input(past, self._presents[index])
            else:
                bind_input(binding, past, self._empty[index])
            binding.bind_output(present)
        logits = np.empty((*token_ids.shape, self.vocabulary_size), self._graph.logits_dtype)
        bind_output(binding, "logits", logits)
        self._graph.session.run_with_iobinding(binding)
        # Outputs come in the order in which they were bound.
        self._presents = binding.get_outputs()[: len(self._graph.cache_names)]
        return logits[:, -1]
