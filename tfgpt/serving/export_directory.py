"""What an export directory holds, read and checked before anything is loaded.

exported/
  config.json              context length, vocabulary size, end of text
  generation_config.json   default options (may be missing)
  genai_config.json        the same facts for onnxruntime-genai (may be missing)
  tokenizer.json           (may be missing: then prompts are token ids)
  onnx/model.onnx          fp32, and beside it the other precisions of `FILE_OF_PRECISION`
  onnx/engine.onnx         our own engine's graph of the same weights, and of the others (may be missing)
  onnx/prompts_*.onnx      the engine's graph for long prompts, of int8 (may be missing)
"""

import os
from dataclasses import dataclass
from pathlib import Path

from tfgpt.errors import InputError, nearest
from tfgpt.files import read_json
from tfgpt.generation.options import GenerationOptions
from tfgpt.paths import user_path

# The names that transformers.js looks for.
FILE_OF_PRECISION = {
    "fp32": "model.onnx",
    "fp16": "model_fp16.onnx",
    "int8": "model_quantized.onnx",
    "int4": "model_q4.onnx",
}
# Beside each our own engine's graph, over the same data file; the name is none that other clients ask for.
ENGINE_OF_PRECISION = {name: file.replace("model", "engine", 1) for name, file in FILE_OF_PRECISION.items()}
# And the engine's graph for long prompts, where a precision has one of its own.
PROMPTS_OF_PRECISION = {"int8": "prompts_quantized.onnx"}
# As config.json of GPT-2 and GPT-J, of Neo and NeoX and most others, and of GPT-1 name it.
CONTEXT_LENGTH_KEYS = ("n_positions", "max_position_embeddings", "n_ctx")


@dataclass(frozen=True)
class ExportDirectory:
    """The facts of one export in one precision.

    Attributes:
        directory: the export itself.
        model_path: the graph of the precision asked for.
        engine_path: the engine's graph of that precision, or None: exports of others have none.
        prompts_path: the engine's graph for long prompts, or None.
        context_length: prompt and new tokens of one row.
        vocabulary_size: as config.json says, or None.
        cache_sizes: layers, heads and numbers of each head in the cache, as genai_config.json says, or None.
        default_options: of generation_config.json, with the end-of-text ids wherever they stand.
    """

    directory: Path
    model_path: Path
    engine_path: Path | None
    prompts_path: Path | None
    context_length: int
    vocabulary_size: int | None
    cache_sizes: tuple[int | None, int | None, int | None]
    default_options: GenerationOptions


def read_export_directory(directory: str | os.PathLike, precision: str) -> ExportDirectory:
    """Reads the configuration files and finds the graph.

    Raises:
        InputError: the directory or the precision is missing, a file is not JSON, or a needed key is absent.
    """
    directory = user_path(directory)
    model_path = _model_path(directory, precision)
    config = read_json(directory / "config.json")
    genai = _optional_json(directory / "genai_config.json").get("model", {})
    genai = genai if isinstance(genai, dict) else {}
    generation = _optional_json(directory / "generation_config.json")
    if generation.get("eos_token_id") is None:
        # Newer files keep it in generation_config.json, older ones in config.json.
        ids = (found.get("eos_token_id") for found in (config, genai))
        generation["eos_token_id"] = next((item for item in ids if item is not None), None)
    return ExportDirectory(
        directory=directory,
        model_path=model_path,
        engine_path=engine_of(directory, precision),
        prompts_path=prompts_of(directory, precision),
        context_length=_context_length(directory, config, genai),
        vocabulary_size=_positive(directory / "config.json", config, "vocab_size"),
        cache_sizes=_cache_sizes(directory, genai.get("decoder")),
        default_options=_default_options(directory, generation),
    )


def precisions_in(directory: Path) -> list[str]:
    """The precisions whose common graph is there, in the order of `FILE_OF_PRECISION`."""
    return [name for name, file in FILE_OF_PRECISION.items() if (directory / "onnx" / file).is_file()]


def engine_of(directory: Path, precision: str) -> Path | None:
    """The engine's graph of a precision, where there is one."""
    return _graph_if_there(directory, ENGINE_OF_PRECISION.get(precision))


def prompts_of(directory: Path, precision: str) -> Path | None:
    """The engine's graph for long prompts, where there is one."""
    return _graph_if_there(directory, PROMPTS_OF_PRECISION.get(precision))


def _graph_if_there(directory: Path, name: str | None) -> Path | None:
    path = None if name is None else directory / "onnx" / name
    return path if path is not None and path.is_file() else None


def _model_path(directory: Path, precision: str) -> Path:
    if precision not in FILE_OF_PRECISION:
        raise InputError(f"found precision {precision!r}{nearest(str(precision), FILE_OF_PRECISION)}")
    if not directory.is_dir():
        raise InputError(f"found no directory {directory}, expected an export; make one with `tfgpt export`")
    folder = directory / "onnx"
    there = precisions_in(directory)
    if precision in there:
        return folder / FILE_OF_PRECISION[precision]
    if there:
        raise InputError(
            f"found {', '.join(there)} in {folder}, expected {precision} ({FILE_OF_PRECISION[precision]}); "
            f"ask for one of those, or export with --precision {precision}"
        )
    raise InputError(f"found no onnx/*.onnx in {directory}, expected an export; make one with `tfgpt export`")


def _optional_json(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def _default_options(directory: Path, generation: dict) -> GenerationOptions:
    try:
        return GenerationOptions.from_generation_config(generation)
    except InputError as error:
        raise InputError(f"{error} (in {directory / 'generation_config.json'})") from None


def _context_length(directory: Path, config: dict, genai: dict) -> int:
    stated = [_positive(directory / "config.json", config, key) for key in CONTEXT_LENGTH_KEYS]
    stated.append(_positive(directory / "genai_config.json", genai, "context_length"))
    lengths = [length for length in stated if length is not None]
    if lengths:
        # The graph has embeddings for the shortest; a longer one was written into a file by hand.
        return min(lengths)
    raise InputError(
        f"found no context length in {directory / 'config.json'}, expected one of the keys "
        f"{', '.join(CONTEXT_LENGTH_KEYS)}; export the model again"
    )


def _cache_sizes(directory: Path, decoder) -> tuple[int | None, int | None, int | None]:
    decoder = decoder if isinstance(decoder, dict) else {}
    keys = ("num_hidden_layers", "num_key_value_heads", "head_size")
    return tuple(_positive(directory / "genai_config.json", decoder, key) for key in keys)


def _positive(path: Path, config: dict, key: str) -> int | None:
    value = config.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InputError(f"found {key}={value!r} in {path}, expected an integer of at least 1")
    return value
