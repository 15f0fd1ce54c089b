"""Generation from an export directory with numpy, onnxruntime and tokenizers alone."""

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.generation.loop import Generation, OnToken, generate
from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.row import make_rows
from tfgpt.serving.engine import Engine, Request
from tfgpt.serving.engine_graph import EngineGraph, engine_runs_here, load_engine_graph
from tfgpt.serving.export_directory import ExportDirectory, read_export_directory
from tfgpt.serving.graph import CacheGraph, load_graph
from tfgpt.serving.growing_cache import GrowingCacheDecoder
from tfgpt.serving.runtime import give_back_memory
from tfgpt.serving.shared_cache import SharedCacheDecoder


class Session:
    """An exported model, ready to generate.

    Example:

        session = Session.open("exported", precision="int8")
        [result] = session.generate("To be, or", GenerationOptions(max_new_tokens=20))
        print(result.text, result.finish_reason)

    Attributes:
        tokenizer: the export's tokenizer, or None when it has none; prompts are token ids then.
        default_options: those of generation_config.json.
        context_length, vocabulary_size: integers.
        engine: what runs requests, where the export has the engine's graph and onnxruntime can run it, or
            None.
        decoder: where there is no engine the model with its cache, as `tfgpt.generation.loop.Decoder`, or
            None.

    One session may be used from several threads. With an engine their requests run side by side; otherwise
    calls wait for each other, since they share the cache.
    """

    def __init__(
        self,
        export: ExportDirectory,
        graph: CacheGraph | EngineGraph,
        tokenizer=None,
        load_prompts: Callable[[], EngineGraph] | None = None,
    ):
        self.tokenizer = tokenizer
        self.default_options = export.default_options
        self.context_length = export.context_length
        self.vocabulary_size = graph.vocabulary_size
        self.engine = self.decoder = None
        if isinstance(graph, EngineGraph):
            self.engine = Engine(graph, export.context_length, load_prompts=load_prompts)
        else:
            kind = SharedCacheDecoder if graph.has_shared_cache else GrowingCacheDecoder
            self.decoder = kind(graph, export.context_length)
        self._lock = threading.Lock()
        self._thread: int | None = None  # that holds it

    @classmethod
    def open(
        cls,
        export_dir: str | os.PathLike,
        precision: str = "fp32",
        num_threads: int | None = None,
        engine: bool = True,
        prompt_graph: bool = True,
        many_rows: bool = False,
    ) -> "Session":
        """Reads an export directory and loads one of its graphs.

        Args:
            export_dir: what `tfgpt export` wrote.
            precision: "fp32", "fp16", "int8" or "int4", if it was exported.
            num_threads: threads to compute with; None is one for each core that the process may use.
            engine: take the engine's graph where there is one; False takes the common graph all the same.
            prompt_graph: read long prompts by a graph of their own where the engine has one (int8): twice as
                fast, for another copy of the weights in memory from the first long prompt on. Activations
                are rounded to 8 bits row by row there, not by blocks. False reads all by one graph.
            many_rows: for whoever serves many requests at once: the engine's graph for long prompts, where
                there is one (int8), takes every token, whatever `prompt_graph` says, and no other is loaded.
                Eight rows are 1.1 to 1.3 times as fast, 32 more so, one alone is slower (0.9); the weights
                are in memory once. Which graph a token takes depends on nobody else here either; a row's
                tokens may differ from those of a session without it, as those of two precisions may.

        Raises:
            InputError: a missing directory, file, key or precision, a damaged graph, or parts of different
                models.
        """
        export = read_export_directory(export_dir, precision)
        if many_rows and export.prompts_path is not None:
            export = dataclasses.replace(export, engine_path=export.prompts_path, prompts_path=None)
        two_graphs = engine and prompt_graph and export.prompts_path is not None
        # Both take a third of a second for GPT-2's size, and neither holds Python's lock for long.
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(_tokenizer, export.directory)
            graph = _load(export, num_threads, engine, in_turns=two_graphs)
            tokenizer = reading.result()
        give_back_memory()
        _check_parts(export, graph, tokenizer)
        load_prompts = None
        if two_graphs:
            load_prompts = functools.partial(_load_prompts, export.prompts_path, num_threads)
        return cls(export, graph, tokenizer, load_prompts)

    def generate(
        self, prompts, options: GenerationOptions | None = None, on_token: OnToken | None = None
    ) -> list[Generation]:
        """Generates a continuation of each prompt; see `tfgpt.generation.loop.generate`.

        Options that leave `end_of_text_ids` open get those of the export. No options at all means
        `default_options`. `prompt_logprobs` needs an engine; `speculate` does nothing without one.

        Raises:
            InputError: for what that function refuses; without an engine also for a call from `on_token`.
        """
        if self.engine is None:
            with self._alone():
                return generate(self.decoder, prompts, self._options(options), self.tokenizer, on_token)
        requests = self.submit(prompts, options)
        try:
            while not all(request.done for request in requests):
                self.engine.advance()
                _tell(requests, on_token)
        finally:
            for request in requests:
                request.cancel()
        _tell(requests, on_token)
        return [_result(request) for request in requests]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The decoder has one cache: calls of other threads wait, one from within `on_token` never could."""
        if self._thread == threading.get_ident():
            raise InputError(
                "found a call of generate from on_token, expected it afterwards, or of another session: "
                "without an engine a session does one thing at a time"
            )
        with self._lock:
            try:
                self._thread = threading.get_ident()
                yield
            finally:
                self._thread = None

    def submit(self, prompts, options: GenerationOptions | None = None) -> list[Request]:
        """Hands prompts to the engine and returns at once: whoever calls `engine.advance` computes them.

        Arguments are those of `generate`.

        Raises:
            InputError: there is no engine, or for what `generate` refuses.
        """
        if self.engine is None:
            raise InputError(
                "found an export without an engine graph, or an onnxruntime that cannot run it, expected "
                "onnx/engine*.onnx and onnxruntime 1.32 or newer; export again, or use generate"
            )
        options = self._options(options)
        rows = make_rows(prompts, options, self.tokenizer, self.vocabulary_size, self.context_length)
        return [self.engine.submit(row) for row in rows]

    def _options(self, options: GenerationOptions | None) -> GenerationOptions:
        options = options or self.default_options
        if options.end_of_text_ids is None:
            options = dataclasses.replace(options, end_of_text_ids=self.default_options.end_of_text_ids)
        return options


def _load(
    export: ExportDirectory, num_threads: int | None, engine: bool, in_turns: bool
) -> CacheGraph | EngineGraph:
    if not engine or export.engine_path is None:
        return load_graph(export.model_path, num_threads)
    try:
        return load_engine_graph(export.engine_path, num_threads, in_turns)
    except InputError:
        # Asked only now, since looking through all operators takes longer than loading a small graph.
        if engine_runs_here():
            raise
        return load_graph(export.model_path, num_threads)


def _load_prompts(path: Path, num_threads: int | None) -> EngineGraph:
    graph = load_engine_graph(path, num_threads, in_turns=True)
    give_back_memory()
    return graph


def _tell(requests: list[Request], on_token: OnToken | None) -> None:
    """Hands new tokens to the caller, in its own thread."""
    for request in requests:
        while request.events:
            token_id, piece = request.events.popleft()
            if on_token is not None:
                on_token(request.row.index, token_id, piece)


def _result(request: Request) -> Generation:
    if request.failure is not None:
        raise request.failure
    return request.row.generation()


def _tokenizer(directory: Path):
    if not (directory / "tokenizer.json").is_file():
        return None
    from tfgpt.tokenizers.loading import load_tokenizer

    return load_tokenizer(directory)


def _check_parts(export: ExportDirectory, graph: CacheGraph | EngineGraph, tokenizer) -> None:
    """Raises InputError where graph, tokenizer and the files beside them are not of one model."""
    path = export.engine_path if isinstance(graph, EngineGraph) else export.model_path
    if export.vocabulary_size not in (None, graph.vocabulary_size):
        raise InputError(
            f"found a graph with {graph.vocabulary_size} tokens in {path}, expected "
            f"{export.vocabulary_size} as in config.json; export the model again"
        )
    found = (len(graph.cache_names) // 2, graph.num_key_value_heads, graph.head_dim)
    if any(stated not in (None, size) for stated, size in zip(export.cache_sizes, found, strict=True)):
        layers, heads, head_dim = export.cache_sizes
        raise InputError(
            f"found a graph with a cache of {found[0]} layers, {found[1]} heads of {found[2]} in {path}, "
            f"expected {layers}, {heads} and {head_dim} as in genai_config.json; export the model again"
        )
    if tokenizer is not None:
        from tfgpt.tokenizers.loading import check_vocabulary

        check_vocabulary(tokenizer, graph.vocabulary_size, export.directory)
