"""The engine's graph, loaded and checked: rows of one cache in one buffer, each at a place of its own.

    IN   input_ids, position_ids         int64  [1, tokens]          new tokens of all rows, row after row
    IN   token_of_slot                   int64  [rows, chunk, 2]     (0, token) that stands in each slot
    IN   slot_of_token                   int64  [1, tokens, 2]       (row, place in its chunk) of each token
    IN   seqlens_k, query_seqlens        int32  [rows]               tokens in the cache - 1; new ones, 0 idle
    IN   total_sequence_length           int32  []                   at least the most tokens in any row
    IN   logits_indices                  int64  [wanted]             the tokens whose logits are wanted
    IN   past_key_values.{i}.key|value   float  [rows, kv_heads, capacity, head_dim]
    OUT  logits                          float  [1, wanted, vocabulary]
    OUT  present.{i}.key|value           float  [rows, kv_heads, capacity, head_dim]     the same memory

`tfgpt_export/engine_graph.py` makes it and draws how tokens and slots go together. `prompt_graph.py` beside
it makes one for long prompts of it, with the same contract over the same cache.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from tfgpt.errors import InputError
from tfgpt.serving.runtime import DTYPES, open_session, operator_has_input

TOKEN_INPUTS = (
    "input_ids",
    "position_ids",
    "token_of_slot",
    "slot_of_token",
    "seqlens_k",
    "query_seqlens",
    "total_sequence_length",
    "logits_indices",
)


@dataclass(frozen=True)
class EngineGraph:
    """A loaded graph and what it says about itself; `cache_names`: (past, present) in the graph's order."""

    session: onnxruntime.InferenceSession
    cache_names: tuple[tuple[str, str], ...]
    num_key_value_heads: int
    head_dim: int
    vocabulary_size: int
    dtype: type
    logits_dtype: type

    def check_same_cache(self, other: "EngineGraph") -> None:
        """Raises InputError unless both graphs can work on one cache."""
        if self._contract() != other._contract():
            raise InputError(
                "found a graph for long prompts whose cache or vocabulary is not that of the engine's "
                "graph, expected both of one model; export it again"
            )

    def _contract(self) -> tuple:
        sizes = (self.num_key_value_heads, self.head_dim, self.vocabulary_size)
        return (self.cache_names, *sizes, self.dtype, self.logits_dtype)


def engine_runs_here() -> bool:
    """Whether this onnxruntime's attention takes rows with new tokens of different numbers (1.32 does)."""
    return operator_has_input("GroupQueryAttention", "query_seqlens")


def load_engine_graph(path: Path, num_threads: int | None = None, in_turns: bool = False) -> EngineGraph:
    """Loads the graph for the CPU.

    Args:
        path: the .onnx file; its external data, if it has any, is mapped into memory, not read.
        num_threads, in_turns: see `open_session`.

    Raises:
        InputError: no graph, or not one with the inputs and outputs above; an impossible number of threads.
    """
    session = open_session(path, num_threads, in_turns)
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = {item.name: item for item in session.get_outputs()}
    pairs = tuple(
        (name, name.replace("past_key_values.", "present.", 1))
        for name in inputs
        if name.startswith("past_key_values.")
    )
    wanted = {*TOKEN_INPUTS, *(past for past, _ in pairs)}
    missing = [name for name in ("logits", *(present for _, present in pairs)) if name not in outputs]
    if set(inputs) != wanted or missing or not pairs:
        raise InputError(
            f"found a graph with inputs {', '.join(inputs)} in {path}, expected those of the engine "
            f"({', '.join(TOKEN_INPUTS)} and a cache); export the model again"
        )
    cache, logits = inputs[pairs[0][0]], outputs["logits"]
    sizes = (cache.shape[1], cache.shape[3], logits.shape[2])
    if not all(isinstance(size, int) for size in sizes) or {cache.type, logits.type} - set(DTYPES):
        raise InputError(
            f"found {cache.name} {cache.type} {cache.shape} and logits {logits.type} {logits.shape} in {path}"
            ", expected floats with a fixed number of heads, head size and vocabulary; export the model again"
        )
    return EngineGraph(session, pairs, *sizes, DTYPES[cache.type], DTYPES[logits.type])


@dataclass(frozen=True)
class Feed:
    """New tokens of one row: `token_ids` go to the slots from `start` on.

    `wanted`: how many of the last of them logits are wanted for.
    """

    row: int
    start: int
    token_ids: list[int]
    wanted: int


class EngineCache:
    """The buffers of all rows and the runs over them, by any graph with the contract of `graph`.

    One buffer per layer and kind is bound as past and as present, so attention writes new slots in place.
    Rows and capacity grow when more are asked for; a slot takes memory only when it is written.
    """

    def __init__(self, graph: EngineGraph):
        self.num_rows = 0
        self.capacity = 0
        self._graph = graph
        # past.0.key, past.0.value, ...: [rows, kv_heads, capacity, head]
        self._buffers: list[np.ndarray] = []
        # One for each kind of run, since two kinds may take turns, with other rows each.
        self._runs: dict[tuple[EngineGraph, int], _Runs] = {}

    def reserve(self, num_rows: int, capacity: int) -> None:
        """Makes room for so many rows and slots; what is in the cache stays."""
        if num_rows <= self.num_rows and capacity <= self.capacity:
            return
        self.num_rows, self.capacity = max(num_rows, self.num_rows), max(capacity, self.capacity)
        shape = (self.num_rows, self._graph.num_key_value_heads, self.capacity, self._graph.head_dim)
        for runs in self._runs.values():
            runs.forget_buffers()
        old, self._buffers = self._buffers[::-1], []
        for _ in self._graph.cache_names:
            # Zeros are only mapped. One after the other, so that old and new are not held together.
            self._buffers.append(np.zeros(shape, self._graph.dtype))
            if old:
                before = old.pop()
                self._buffers[-1][: before.shape[0], :, : before.shape[2]] = before

    def run(self, feeds: list[Feed], graph: EngineGraph | None = None, least_chunk: int = 1) -> np.ndarray:
        """Computes new tokens, at most one feed for each row.

        Args:
            graph: another one than that of `__init__`, with the same contract.
            least_chunk: places for each row's new tokens, used or not. Attention adds up one way for one
                place, and another way for two or more.

        Returns:
            logits [wanted, vocabulary], feed after feed; valid until the next run of this kind.
        """
        graph = graph or self._graph
        if (graph, least_chunk) not in self._runs:
            self._runs[graph, least_chunk] = _Runs(graph, least_chunk)
        return self._runs[graph, least_chunk].run(feeds, self._buffers)


class _Runs:
    """The runs of one graph, with what is bound to it from one to the next."""

    def __init__(self, graph: EngineGraph, least_chunk: int):
        self._graph = graph
        self._least_chunk = least_chunk
        self._binding = None
        self._bound: dict[str, np.ndarray] = {}
        self._logits_memory = np.empty(0, graph.logits_dtype)

    def forget_buffers(self) -> None:
        """The cache has others now."""
        self._binding = None

    def run(self, feeds: list[Feed], buffers: list[np.ndarray]) -> np.ndarray:
        """See `EngineCache.run`."""
        rows = 1 + max(feed.row for feed in feeds)
        if self._binding is None or self._bound["seqlens_k"].shape != (rows,):
            self._bind_caches(rows, buffers)
        arrays = _arrays(feeds, rows, self._least_chunk)
        for name, array in arrays.items():
            bound = self._bound.get(name)
            if bound is not None and bound.shape == array.shape:
                bound[...] = array
            else:
                self._bound[name] = array
                self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        logits = self._logits(len(arrays["logits_indices"]))
        self._graph.session.run_with_iobinding(self._binding)
        return logits

    def _bind_caches(self, rows: int, buffers: list[np.ndarray]) -> None:
        self._binding, self._bound = self._graph.session.io_binding(), {}
        for buffer, names in zip(buffers, self._graph.cache_names, strict=True):
            part = buffer[:rows]
            arguments = ("cpu", 0, part.dtype.type, part.shape, part.ctypes.data)
            self._binding.bind_input(names[0], *arguments)
            self._binding.bind_output(names[1], *arguments)

    def _logits(self, wanted: int) -> np.ndarray:
        """[wanted, vocabulary] over the same memory at every run unless it must grow."""
        logits = self._bound.get("logits")
        if logits is None or len(logits) != wanted:
            size = wanted * self._graph.vocabulary_size
            if self._logits_memory.size < size:
                self._logits_memory = np.empty(size, self._graph.logits_dtype)
            logits = self._logits_memory[:size].reshape(wanted, self._graph.vocabulary_size)
            self._bound["logits"] = logits
            self._binding.bind_output(
                "logits", "cpu", 0, logits.dtype.type, (1, *logits.shape), logits.ctypes.data
            )
        return logits


def _arrays(feeds: list[Feed], rows: int, least_chunk: int = 1) -> dict[str, np.ndarray]:
    """The token inputs of the graph; rows without a feed are idle."""
    lengths = [len(feed.token_ids) for feed in feeds]
    num_tokens, chunk = sum(lengths), max(least_chunk, *lengths)
    input_ids = np.empty((1, num_tokens), np.int64)
    position_ids = np.empty((1, num_tokens), np.int64)
    token_of_slot = np.zeros((rows, chunk, 2), np.int64)
    slot_of_token = np.empty((1, num_tokens, 2), np.int64)
    seqlens_k, query_seqlens = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    wanted, first = [], 0
    for feed, length in zip(feeds, lengths, strict=True):
        end = first + length
        input_ids[0, first:end] = feed.token_ids
        position_ids[0, first:end] = np.arange(feed.start, feed.start + length)
        token_of_slot[feed.row, :length, 1] = np.arange(first, end)
        slot_of_token[0, first:end, 0] = feed.row
        slot_of_token[0, first:end, 1] = np.arange(length)
        seqlens_k[feed.row] = feed.start + length - 1
        query_seqlens[feed.row] = length
        wanted.extend(range(end - feed.wanted, end))
        first = end
    # The operator also wants it to be no less than the chunk.
    total = max(int(seqlens_k.max()) + 1, chunk)
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "token_of_slot": token_of_slot,
        "slot_of_token": slot_of_token,
        "seqlens_k": seqlens_k,
        "query_seqlens": query_seqlens,
        "total_sequence_length": np.array(total, np.int32),
        "logits_indices": np.array(wanted, np.int64),
    }
