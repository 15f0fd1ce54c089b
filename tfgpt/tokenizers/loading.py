"""Reading whichever tokenizer a directory holds. No TF."""

import os

from tfgpt.tokenizers.base import Tokenizer
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer, is_character_vocabulary


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """The tokenizer saved in `directory`: byte-level BPE or characters; InputError if there is none."""
    kind = CharacterTokenizer if is_character_vocabulary(directory) else BytePairTokenizer
    return kind.from_pretrained(directory)
