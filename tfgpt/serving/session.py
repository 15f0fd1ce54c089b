"""Generation from an export directory with numpy, onnxruntime and tokenizers alone."""

import dataclasses
import os
import threading
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.generation.loop import Generation, OnToken, generate
from tfgpt.generation.options import GenerationOptions
from tfgpt.serving.export_directory import ExportDirectory, read_export_directory
from tfgpt.serving.graph import CacheGraph, load_graph
from tfgpt.serving.growing_cache import GrowingCacheDecoder
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
        decoder: the model with its cache, as `tfgpt.generation.loop.Decoder`.

    One session may be used from several threads: calls wait for each other, since they share the cache.
    """

    def __init__(self, export: ExportDirectory, graph: CacheGraph, tokenizer=None):
        self.tokenizer = tokenizer
        self.default_options = export.default_options
        self.context_length = export.context_length
        self.vocabulary_size = graph.vocabulary_size
        kind = SharedCacheDecoder if graph.has_shared_cache else GrowingCacheDecoder
        self.decoder = kind(graph, export.context_length)
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, export_dir: str | os.PathLike, precision: str = "fp32", num_threads: int | None = None
    ) -> "Session":
        """Reads an export directory and loads one of its graphs.

        Args:
            export_dir: what `tfgpt export` wrote.
            precision: "fp32", "fp16", "int8" or "int4", if it was exported.
            num_threads: threads to compute with; None is one for each core that the process may use.

        Raises:
            InputError: a missing directory, file, key or precision, a damaged graph, or parts of different
                models.
        """
        export = read_export_directory(export_dir, precision)
        graph = load_graph(export.model_path, num_threads)
        tokenizer = _tokenizer(export.directory)
        _check_vocabularies(export, graph, tokenizer)
        return cls(export, graph, tokenizer)

    def generate(
        self, prompts, options: GenerationOptions | None = None, on_token: OnToken | None = None
    ) -> list[Generation]:
        """Generates a continuation of each prompt; see `tfgpt.generation.loop.generate`.

        Options that leave `end_of_text_ids` open get those of the export. No options at all means
        `default_options`.
        """
        options = options or self.default_options
        if options.end_of_text_ids is None:
            options = dataclasses.replace(options, end_of_text_ids=self.default_options.end_of_text_ids)
        with self._lock:
            return generate(self.decoder, prompts, options, self.tokenizer, on_token)


def _tokenizer(directory: Path):
    if not (directory / "tokenizer.json").is_file():
        return None
    from tfgpt.tokenizers.loading import load_tokenizer

    return load_tokenizer(directory)


def _check_vocabularies(export: ExportDirectory, graph: CacheGraph, tokenizer) -> None:
    if export.vocabulary_size not in (None, graph.vocabulary_size):
        raise InputError(
            f"found a graph with {graph.vocabulary_size} tokens in {export.model_path}, expected "
            f"{export.vocabulary_size} as in config.json; export the model again"
        )
    if tokenizer is not None:
        from tfgpt.tokenizers.loading import check_vocabulary

        check_vocabulary(tokenizer, graph.vocabulary_size, export.directory)
