"""Reading whichever tokenizer a directory holds. No TF."""

import os
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.paths import user_path
from tfgpt.tokenizers.base import Tokenizer, found_kind
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer
from tfgpt.tokenizers.end_of_word import EndOfWordTokenizer
from tfgpt.tokenizers.file_names import TOKENIZER_FILE, VOCABULARY_AND_MERGES
from tfgpt.tokenizers.settings import apply_settings, read_settings
from tfgpt.tokenizers.vocabulary_files import read_backend

KINDS: tuple[type[Tokenizer], ...] = (BytePairTokenizer, EndOfWordTokenizer, CharacterTokenizer)


def has_tokenizer(directory: str | os.PathLike) -> bool:
    """Whether `directory` holds the files of a tokenizer; they may still be damaged."""
    kinds = ((TOKENIZER_FILE,), *VOCABULARY_AND_MERGES)
    return any(all((Path(directory) / name).is_file() for name in names) for names in kinds)


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """The tokenizer saved in `directory`; what its files contain decides of which kind it is.

    Raises:
        InputError: no tokenizer, one of no kind that is known, or files that are damaged.
    """
    directory = user_path(directory)
    backend, settings = read_backend(directory), read_settings(directory)
    for kind in KINDS:
        if kind.fits(backend):
            apply_settings(backend, settings, directory)
            return kind.from_backend(backend, settings)
    expected = "; or ".join(kind.kind for kind in KINDS)
    raise InputError(f"{found_kind(backend)} in {directory}, expected {expected}")


def check_vocabulary(tokenizer: Tokenizer, vocabulary_size: int, directory: str | os.PathLike) -> None:
    """InputError if the tokenizer of `directory` makes ids for which its model has no embedding."""
    if tokenizer.vocabulary_size > vocabulary_size:
        raise InputError(
            f"found a tokenizer with {tokenizer.vocabulary_size} tokens in {directory}, expected at most the "
            f"{vocabulary_size} of the model; use the tokenizer it was trained with"
        )
