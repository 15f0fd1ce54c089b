"""Token shards: the ids of each document, their files, and what happens when they are damaged."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tfgpt.data.packing import cut_text, write_shards
from tfgpt.data.shards import TokenShards, token_dtype
from tfgpt.data.text import Document
from tfgpt.errors import InputError
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer

TEXTS = ["def f():\n    return 1\n", "ä<|endoftext|>b\n", "x", "to be or not\n\n to be\n" * 30]
DATA = Path(os.environ.get("TFGPT_DATA") or Path(__file__).resolve().parents[3] / "shared/data")


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train(TEXTS, vocabulary_size=280)


@pytest.fixture
def documents():
    return [Document(f"{number}\n.txt", text) for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("shard_tokens", [7, 50, 2**20])
def test_stream_and_boundaries(tokenizer, documents, tmp_path, shard_tokens):
    shards = write_shards(documents, tokenizer, tmp_path / "shards", shard_tokens=shard_tokens)
    expected, starts = [], []
    for text in TEXTS:
        starts.append(len(expected))
        expected += [*tokenizer.encode(text, allow_special=False), tokenizer.end_of_text_id]
    assert shards.all_tokens().tolist() == expected
    assert shards.document_starts().tolist() == starts
    assert shards.document_names() == [document.name for document in documents]
    assert shards.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert (shards.num_documents, shards.end_of_text_id) == (4, tokenizer.end_of_text_id)
    assert expected.count(tokenizer.end_of_text_id) == 4  # the one written in a text is text
    assert len(shards.index.shards) == -(-len(expected) // shard_tokens)
    generator = np.random.default_rng(0)
    for _ in range(200):
        first, last = sorted(generator.integers(0, len(expected) + 1, 2).tolist())
        assert shards.window(first, last - first).tolist() == expected[first:last]
    places = generator.integers(0, len(expected), (5, 9))
    assert shards.gather(places).tolist() == np.asarray(expected)[places].tolist()
    assert shards.gather(places).dtype == np.int32
    for start, length in ((-1, 2), (len(expected), 1), (0, len(expected) + 1)):
        with pytest.raises(InputError, match="found the window"):
            shards.window(start, length)


def test_dtype_is_the_smallest_that_holds_the_vocabulary():
    assert [token_dtype(size).name for size in (257, 2**16, 2**16 + 1)] == ["uint16", "uint16", "uint32"]


def test_large_ids_are_kept(tmp_path):
    many = CharacterTokenizer.from_characters(chr(0x10000 + number) for number in range(70_000))
    shards = write_shards([Document("a", chr(0x10000 + 69_999) + chr(0x10000))], many, tmp_path / "s")
    assert (shards.dtype.name, shards.all_tokens().tolist()) == ("uint32", [69_999, 0])
    assert shards.end_of_text_id is None


def test_pieces_have_the_ids_of_the_whole():
    text = (
        "line one\nline two \n  indented\n\n\nparagraph\n \nx\n\ty\r\nz ;\n}\n'll\n's don\n't\n<|endof"
        "\ntext|>\n"
        "\u00a0\nfoo\u3000\nbar\n\u2028next\n日本\n語\n123\n456"
    ) * 5
    tokenizers = [BytePairTokenizer.train([text], vocabulary_size=400)]
    if (DATA / "gpt2_bpe").is_dir():
        tokenizers.append(BytePairTokenizer.from_pretrained(DATA / "gpt2_bpe"))
    for size in range(1, 60, 3):
        pieces = cut_text(text, size)
        assert "".join(pieces) == text
        assert len(pieces) > 5
        for tokenizer in tokenizers:
            joined = [token_id for ids in tokenizer.encode_batch(pieces) for token_id in ids]
            assert joined == tokenizer.encode(text)
    assert cut_text("", 5) == [""]
    assert cut_text("no line end in here", 5) == ["no line end in here"]


def test_a_tokenizer_that_adds_to_every_text_gets_whole_texts(tokenizer, tmp_path, monkeypatch):
    assert tokenizer.encodes_lines_apart
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    file = tmp_path / "tokenizer/tokenizer.json"
    state = json.loads(file.read_text())
    state["pre_tokenizer"]["add_prefix_space"] = True
    file.write_text(json.dumps(state))
    prefixing = BytePairTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = "to be\nor not\n" * 8000  # several pieces
    assert len(cut_text(text)) > 2
    shards = write_shards([Document("a", text)], prefixing, tmp_path / "shards")
    expected = prefixing.encode(text, allow_special=False)
    assert shards.all_tokens().tolist() == [*expected, prefixing.end_of_text_id]


def test_same_inputs_are_reused_and_others_are_not(tokenizer, documents, tmp_path):
    directory = tmp_path / "shards"

    def forbidden():
        raise AssertionError("read again")
        yield

    write_shards(documents, tokenizer, directory, inputs_fingerprint="one")
    assert write_shards(forbidden(), tokenizer, directory, inputs_fingerprint="one").num_documents == 4
    for fingerprint in ("two", ""):
        with pytest.raises(AssertionError, match="read again"):
            write_shards(forbidden(), tokenizer, directory, inputs_fingerprint=fingerprint)
    # A failure leaves the old directory whole and nothing beside it.
    assert TokenShards.open(directory, verify=True).num_documents == 4
    assert os.listdir(tmp_path) == ["shards"]
    other = BytePairTokenizer.train(TEXTS, vocabulary_size=260)
    with pytest.raises(AssertionError, match="read again"):
        write_shards(forbidden(), other, directory, inputs_fingerprint="one")
    os.truncate(directory / "tokens-00000.bin", 10)
    assert write_shards(documents, tokenizer, directory, inputs_fingerprint="one").num_documents == 4
    with pytest.raises(InputError, match="expected those of"):
        TokenShards.open(directory).check_tokenizer(other)


def test_damage_is_an_input_error(tokenizer, documents, tmp_path):
    with pytest.raises(InputError, match="found no text to pack"):
        write_shards([], tokenizer, tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
    with pytest.raises(InputError, match=r"found no index\.json"):
        TokenShards.open(tmp_path / "absent")
    directory = tmp_path / "shards"
    write_shards(documents, tokenizer, directory)
    shard, index = directory / "tokens-00000.bin", directory / "index.json"
    whole, content = shard.read_bytes(), json.loads(index.read_text())
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=rf"found {len(whole) - 1} bytes in .*tokens-00000\.bin, expected"):
        TokenShards.open(directory)
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    TokenShards.open(directory)
    with pytest.raises(InputError, match="changed since it was written"):
        TokenShards.open(directory, verify=True)
    shard.unlink()
    with pytest.raises(InputError, match=r"found no .*tokens-00000\.bin"):
        TokenShards.open(directory)
    shard.write_bytes(whole)
    for change, message in (
        ({"num_tokens": 3}, "expected 3"),
        ({"format": "other"}, "found another format"),
        ({"version": 99}, "found another format"),
    ):
        index.write_text(json.dumps(content | change))
        with pytest.raises(InputError, match=message):
            TokenShards.open(directory)
    del content["dtype"]
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match="found no 'dtype'"):
        TokenShards.open(directory)
    index.write_text("{")
    with pytest.raises(InputError, match="unreadable"):
        TokenShards.open(directory)
