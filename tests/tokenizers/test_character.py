"""The character vocabulary: nanoGPT's numbering, and the same ids from the saved tokenizer.json."""

import os
from pathlib import Path

import pytest
import tokenizers

from tfgpt.errors import InputError
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer
from tfgpt.tokenizers.loading import load_tokenizer

DATA = Path(os.environ.get("TFGPT_DATA") or Path(__file__).resolve().parents[3] / "shared/data")
TEXT = "to be,\n or not  👍\r\n日本\t"


def test_ids_by_code_point():
    tokenizer = CharacterTokenizer.train(["ba", "c\n"])
    assert tokenizer.encode("\nabc") == [0, 1, 2, 3]
    assert (tokenizer.vocabulary_size, tokenizer.end_of_text_id) == (4, None)


def test_saved_file_means_the_same_to_the_library(tmp_path):
    tokenizer = CharacterTokenizer.train([TEXT])
    tokenizer.save_pretrained(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode(TEXT).ids == tokenizer.encode(TEXT)
    assert library.decode(tokenizer.encode(TEXT)) == TEXT
    again = load_tokenizer(tmp_path)
    assert isinstance(again, CharacterTokenizer)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.decode(again.encode(TEXT)) == TEXT
    stream = again.stream_decoder()
    assert [stream.push(token_id) for token_id in again.encode("👍\n")] == ["👍", "\n"]


def test_saved_file_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = CharacterTokenizer.train([TEXT])
    tokenizer.save_pretrained(tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert reference(TEXT).input_ids == tokenizer.encode(TEXT)
    assert reference.decode(tokenizer.encode(TEXT)) == TEXT


def test_shakespeare_has_65_characters():
    path = DATA / "tinyshakespeare/input.txt"
    if not path.is_file():
        pytest.skip(f"tinyshakespeare is not in {DATA}")
    tokenizer = CharacterTokenizer.train([path.read_text()])
    assert tokenizer.vocabulary_size == 65  # nanoGPT, data/shakespeare_char/readme.md
    # stoi of nanoGPT's prepare.py: "\n" 0, " " 1, "!" 2, ..., "A" 13, "a" 39
    assert tokenizer.encode("\n !Aa") == [0, 1, 2, 13, 39]


def test_errors(tmp_path):
    tokenizer = CharacterTokenizer.train(["ab"])
    with pytest.raises(InputError, match="found the character 'c', expected only the 2 characters"):
        tokenizer.encode("abc")
    with pytest.raises(InputError, match="found token id 2, expected"):
        tokenizer.decode([2])
    with pytest.raises(InputError, match="found no text"):
        CharacterTokenizer.train([""])
    BytePairTokenizer.train(["ab"], 257).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="found a BPE tokenizer"):
        CharacterTokenizer.from_pretrained(tmp_path)
