"""Reading whichever tokenizer a directory holds. No TF."""

import os
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.tokenizers.base import Tokenizer
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer, is_character_vocabulary
from tfgpt.tokenizers.vocabulary_files import VOCABULARY_AND_MERGES


def has_tokenizer(directory: str | os.PathLike) -> bool:
    """Whether `directory` holds the files of a tokenizer; they may still be damaged."""
    kinds = (("tokenizer.json",), *VOCABULARY_AND_MERGES)
    return any(all((Path(directory) / name).is_file() for name in names) for names in kinds)


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """The tokenizer saved in `directory`: byte-level BPE or characters; InputError if there is none."""
    kind = CharacterTokenizer if is_character_vocabulary(directory) else BytePairTokenizer
    return kind.from_pretrained(directory)


def check_vocabulary(tokenizer: Tokenizer, vocabulary_size: int, directory: str | os.PathLike) -> None:
    """InputError if the tokenizer of `directory` makes ids for which its model has no embedding."""
    if tokenizer.vocabulary_size > vocabulary_size:
        raise InputError(
            f"found a tokenizer with {tokenizer.vocabulary_size} tokens in {directory}, expected at most the "
            f"{vocabulary_size} of the model; use the tokenizer it was trained with"
        )
