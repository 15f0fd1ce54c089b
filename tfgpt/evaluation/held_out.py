"""Windows of text that a model has not been trained on: what quantization is judged by. No TensorFlow."""

import os
import tempfile
from pathlib import Path

import numpy as np

from tfgpt.checkpoints.directory import read_model_config
from tfgpt.data.cleaning import CleaningOptions, CleaningReport, clean_documents
from tfgpt.data.packing import write_shards
from tfgpt.data.prepare import PreparedCorpus
from tfgpt.data.shards import TokenShards
from tfgpt.data.text import read_documents
from tfgpt.errors import InputError
from tfgpt.tokenizers.loading import check_vocabulary, has_tokenizer, load_tokenizer

NUM_WINDOWS = 64
WINDOW = 128


def windows_of_text(model_dir: str | os.PathLike, path: str | os.PathLike) -> np.ndarray:
    """Windows of any text, with the tokenizer of a model directory: int64 `[rows, length]`.

    Raises:
        InputError: no text there, or no tokenizer in the model directory.
    """
    config = read_model_config(Path(model_dir))[1]
    tokenizer = load_tokenizer(Path(model_dir))
    check_vocabulary(tokenizer, config.vocabulary_size, Path(model_dir))
    documents = list(clean_documents(read_documents(path), CleaningOptions(), CleaningReport()))
    if not documents:
        raise InputError(f"found no text in {path}, expected some to judge the export by")
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(documents, tokenizer, Path(folder) / "text", inputs_fingerprint="held out")
        return spread_windows(shards, config.context_length)


def windows_beside(model_dir: str | os.PathLike, split: str = "validation") -> np.ndarray | None:
    """Windows of the text that `tfgpt train` kept beside the model it made, `None` without one.

    Args:
        model_dir: the model.
        split: "validation", or "train" for what rounding may be calibrated on.
    """
    model_dir = Path(model_dir)
    data = model_dir.resolve().parent / "data"
    if not (data / "report.json").is_file() or not has_tokenizer(model_dir):
        return None
    corpus = PreparedCorpus.open(data)
    if corpus.tokenizer.fingerprint() != load_tokenizer(model_dir).fingerprint():
        return None
    shards = {"validation": corpus.validation, "train": corpus.train}[split]
    return spread_windows(shards, read_model_config(model_dir)[1].context_length)


def spread_windows(shards: TokenShards, context_length: int, count: int = NUM_WINDOWS) -> np.ndarray:
    """int64 `[count or fewer, length]` at even distances over a text, `length` at most `WINDOW`.

    Raises:
        InputError: a text of less than two tokens, in which nothing is predicted.
    """
    length = min(WINDOW, context_length, shards.num_tokens)
    if length < 2:
        raise InputError(f"found a text of {shards.num_tokens} tokens, expected at least 2 to predict one")
    starts = np.unique(np.linspace(0, shards.num_tokens - length, count).astype(int))
    return np.stack([shards.window(int(start), length) for start in starts]).astype(np.int64)
