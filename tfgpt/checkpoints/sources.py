"""What published checkpoints look like on disk: a format is recognised by its files. Loads no TensorFlow."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfgpt.checkpoints.directory import CONFIG_FILE, config_of_values, read_model_config
from tfgpt.checkpoints.openai import GPT1_FIRST, GPT1_SHAPES, NumpyShards, TensorFlowCheckpoint
from tfgpt.checkpoints.readers import Reader, TensorReader
from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.families.family import Family
from tfgpt.files import read_json

GPT2_HPARAMS = "hparams.json"
_GPT2_KEYS = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
# train.py's default, which no file of the release says.
_GPT1_HEADS = 12
_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Format:
    """One way to publish a checkpoint.

    Args:
        title: as people say it.
        mark: a file that only this format has.
        read_config: a directory's family and config.
        reader: opens its tensors, under the names of the family's table.
        tokenizer: file in the directory -> its name in a model directory; `None` where they are the same.
        tokenizer_class: what tokenizer_config.json has to name; `None` where the source has such a file.
    """

    title: str
    mark: str
    read_config: Callable[[Path], tuple[Family, ModelConfig]]
    reader: Callable[[Path], Reader]
    tokenizer: dict[str, str] | None = None
    tokenizer_class: str | None = None


def _read_gpt2_config(directory: Path) -> tuple[Family, ModelConfig]:
    path = directory / GPT2_HPARAMS
    hparams = read_json(path)
    for key in _GPT2_KEYS:
        if key not in hparams:
            raise InputError(f"{path} has no {key!r}: expected the hparams.json of a GPT-2")
    values = {theirs: hparams[key] for key, theirs in _GPT2_KEYS.items()}
    encoder = directory / "encoder.json"
    end = read_json(encoder).get(_END_OF_TEXT) if os.path.lexists(encoder) else None
    return config_of_values({"model_type": "gpt2", **values, "bos_token_id": end, "eos_token_id": end}, path)


def _read_gpt1_config(directory: Path) -> tuple[Family, ModelConfig]:
    reader = NumpyShards(directory)
    positions, tokens = (reader.shape(name) for name in GPT1_FIRST)
    values = {
        "model_type": "openai-gpt",
        "n_positions": positions[0],
        "vocab_size": tokens[0],
        "n_embd": tokens[-1],
        "n_head": _GPT1_HEADS,
        "n_layer": reader.num_layers,
    }
    return config_of_values(values, directory / GPT1_SHAPES)


HUGGING_FACE = Format(
    title="Hugging Face",
    mark=CONFIG_FILE,
    read_config=read_model_config,
    reader=TensorReader,
)
OPENAI_GPT1 = Format(
    title="OpenAI's GPT-1",
    mark=GPT1_SHAPES,
    read_config=_read_gpt1_config,
    reader=NumpyShards,
    tokenizer={"encoder_bpe_40000.json": "vocab.json", "vocab_40000.bpe": "merges.txt"},
    tokenizer_class="OpenAIGPTTokenizer",
)
OPENAI_GPT2 = Format(
    title="OpenAI's GPT-2",
    mark=GPT2_HPARAMS,
    read_config=_read_gpt2_config,
    reader=TensorFlowCheckpoint,
    tokenizer={"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"},
    tokenizer_class="GPT2Tokenizer",
)
FORMATS = (HUGGING_FACE, OPENAI_GPT1, OPENAI_GPT2)


def format_of(directory: Path) -> Format:
    """The format of a directory, by its files.

    Raises:
        InputError: it has the mark of none.
    """
    for each in FORMATS:
        if os.path.lexists(Path(directory) / each.mark):
            return each
    marks = "; ".join(f"{each.title}: {each.mark}" for each in FORMATS)
    raise InputError(f"{directory} is no checkpoint that tfgpt knows: expected one of ({marks})")
