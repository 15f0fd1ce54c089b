"""Byte-level BPE against transformers' GPT2TokenizerFast (live or recorded), and its files."""

import copy
import json
import os
import pickle
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt.errors import InputError
from tfgpt.tokenizers.base import TokenBytes
from tfgpt.tokenizers.byte_pair import BytePairTokenizer, cut_long_runs
from tfgpt.tokenizers.loading import load_tokenizer
from tfgpt.tokenizers.vocabulary_files import byte_level_backend

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
DATA = Path(os.environ.get("TFGPT_DATA") or Path(__file__).resolve().parents[3] / "shared/data")
TEXTS = ["the quick brown fox jumps over the lazy dog\n" * 20, "naïve café — 日本語 👍🏽\n" * 20]


@pytest.fixture(scope="module")
def gpt2():
    if not (DATA / "gpt2_bpe").is_dir():
        pytest.skip(f"GPT-2's vocabulary is not in {DATA}")
    return BytePairTokenizer.from_pretrained(DATA / "gpt2_bpe")


@pytest.fixture(scope="module")
def trained():
    return BytePairTokenizer.train(TEXTS, vocabulary_size=300)


@pytest.fixture
def recording_module(fixture_module):
    return fixture_module("record_tokenizer")


def test_published_facts(gpt2):
    assert (gpt2.vocabulary_size, gpt2.end_of_text_id) == (50257, 50256)
    # The example in the docstring of transformers' GPT2Tokenizer.
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode(" Hello world") == [18435, 995]


def test_recorded_ids(gpt2):
    records = json.loads((FIXTURES / "tokenizer_gpt2.json").read_text())
    assert len(records) > 80
    for record in records:
        assert gpt2.encode(record["text"]) == record["ids"], record["text"]
        assert gpt2.encode(record["text"], allow_special=False) == record["plain_ids"], record["text"]


def test_live_parity(gpt2, recording_module):
    """6,000 random Unicode strings: the same ids, and decoding gives the text back."""
    pytest.importorskip("transformers")
    reference = recording_module.reference_tokenizer(DATA / "gpt2_bpe")
    generator = random.Random(7)
    texts = [recording_module.random_string(generator) for _ in range(6000)]
    expected = reference(texts).input_ids
    found = gpt2.encode_batch(texts)
    assert sum(50256 in ids for ids in expected) > 500  # special tokens are among them
    for text, ids, expected_ids in zip(texts, found, expected, strict=True):
        assert ids == expected_ids, text
        assert gpt2.decode(ids) == text
    plain = gpt2.encode_batch(texts, allow_special=False)
    assert not any(50256 in ids for ids in plain)
    assert [gpt2.decode(ids) for ids in plain] == texts


def test_decode_of_random_ids_equals_the_library(gpt2):
    """Random ids are mostly broken UTF-8; replacement characters must fall the same way."""
    generator = random.Random(3)
    for _ in range(500):
        ids = [generator.choice((generator.randrange(256), generator.randrange(50257))) for _ in range(20)]
        text = gpt2.decode(ids)
        assert text == gpt2.backend.decode(ids, skip_special_tokens=False)
        stream = gpt2.stream_decoder()
        assert "".join(stream.push(i) for i in ids) + stream.flush() == text


def test_saved_files_give_the_same_ids_in_transformers(gpt2, trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    for name, tokenizer in (("gpt2", gpt2), ("trained", trained)):
        tokenizer.save_pretrained(tmp_path / name, model_max_length=77)
        reference = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert (len(reference), reference.model_max_length) == (tokenizer.vocabulary_size, 77)
        assert reference.eos_token_id == tokenizer.end_of_text_id
        for text in [*TEXTS, "a <|endoftext|>\n\n b's  .", "Ελληνικά"]:
            assert reference(text).input_ids == tokenizer.encode(text)
            assert reference.decode(tokenizer.encode(text)) == text


def test_reads_what_transformers_saves(gpt2, recording_module, tmp_path):
    pytest.importorskip("transformers")
    recording_module.reference_tokenizer(DATA / "gpt2_bpe").save_pretrained(tmp_path)
    assert BytePairTokenizer.from_pretrained(tmp_path).fingerprint() == gpt2.fingerprint()


def test_every_naming_of_the_files_is_the_same_tokenizer(gpt2, tmp_path):
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        directory = tmp_path / vocabulary
        directory.mkdir()
        shutil.copyfile(DATA / "gpt2_bpe/encoder.json", directory / vocabulary)
        shutil.copyfile(DATA / "gpt2_bpe/vocab.bpe", directory / merges)
        assert BytePairTokenizer.from_pretrained(directory).fingerprint() == gpt2.fingerprint()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_round_trip_and_stream(trained, text):
    for allow_special in (True, False):
        ids = trained.encode(text, allow_special)
        assert trained.decode(ids) == text
        stream = trained.stream_decoder()
        pieces = [stream.push(token_id) for token_id in ids]
        assert "".join(pieces) + stream.flush() == text
        assert "\ufffd" not in "".join(pieces).replace("\ufffd", "", text.count("\ufffd"))


def test_stream_holds_back_unfinished_characters():
    only_bytes = BytePairTokenizer.train(["a"], vocabulary_size=257)
    ids = only_bytes.encode("ж👍")
    assert len(ids) == 6
    stream = only_bytes.stream_decoder()
    assert [stream.push(token_id) for token_id in ids] == ["", "ж", "", "", "", "👍"]
    assert stream.flush() == ""
    stream.push(ids[0])
    assert stream.flush() == "\ufffd"


def test_trained_vocabulary(trained):
    assert trained.vocabulary_size == 300
    assert trained.end_of_text_id == 299
    assert len(trained.encode("the quick brown fox")) < 10  # it merged what it saw often
    assert trained.decode(trained.encode("x<|endoftext|>y"), skip_special_tokens=True) == "xy"
    again = BytePairTokenizer.train(iter(TEXTS), vocabulary_size=300)
    assert again.fingerprint() == trained.fingerprint()


def test_long_runs_are_cut_for_training_alone(trained):
    """Without the cuts the trainer would be busy with the first of these for an hour."""
    long = "a" * 3_000_000
    learned = BytePairTokenizer.train([long, *TEXTS], vocabulary_size=300)
    assert learned.decode(learned.encode(long)) == long
    assert len(learned.encode(long)) <= 3_000_000 / 512
    for text in (long[:5000], "x " + "ж" * 2500 + " y", "x" + "\n" * 1025 + "y", "a b", ""):
        pieces = list(cut_long_runs(text))
        assert "".join(pieces) == text
        runs = [run for piece in pieces for run in re.findall(r"\S+|\s+", piece)]
        assert max(map(len, runs), default=0) <= 1024
    for text in ("a" * 1024 + " " * 1024 + "b", *TEXTS):
        assert list(cut_long_runs(text)) == [text]


def test_fingerprint_sees_vocabulary_and_order_of_merges(trained, tmp_path):
    assert BytePairTokenizer.train(TEXTS, vocabulary_size=299).fingerprint() != trained.fingerprint()
    trained.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint() == trained.fingerprint()
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    state["model"]["merges"][:2] = state["model"]["merges"][1::-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert load_tokenizer(tmp_path).fingerprint() != trained.fingerprint()


def test_stored_truncation_does_not_cut_texts(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    state["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert load_tokenizer(tmp_path).decode(trained.encode(TEXTS[0])) == TEXTS[0]
    assert len(load_tokenizer(tmp_path).encode(TEXTS[0])) > 2


def test_end_of_text_from_the_configuration(trained, tmp_path):
    trained.backend.add_special_tokens(["<|stop|>"])
    trained.save_pretrained(tmp_path)
    configuration = {"eos_token": {"content": "<|stop|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(configuration))
    assert BytePairTokenizer.from_pretrained(tmp_path).end_of_text_id == 300
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|absent|>"}))
    with pytest.raises(InputError, match=r"found no token '<\|absent\|>'"):
        BytePairTokenizer.from_pretrained(tmp_path)


def write_vocabulary(directory, vocabulary, merges="#version: 0.2\na b\n"):
    (directory / "vocab.json").write_text(vocabulary)
    (directory / "merges.txt").write_text(merges)


SMALL = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}


@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        (json.dumps(SMALL)[:20], "", "not readable JSON"),
        ("[1]", "", "holds a list"),
        (json.dumps(SMALL | {"ab": 9}), "a b\n", "gaps or repeat"),
        (json.dumps(SMALL | {"ab": "2"}), "a b\n", "found '2' as the id of 'ab'"),
        (json.dumps(SMALL), "a b c\n", "line 1, expected two tokens"),
        (json.dumps(SMALL), "a c\n", "do not fit the vocabulary"),
        (json.dumps({"a": 0, "b": 1, "ab": 2}), "a b\n", r"found no token '<\|endoftext\|>'"),
    ],
)
def test_corrupt_vocabulary(tmp_path, vocabulary, merges, message):
    write_vocabulary(tmp_path, vocabulary, merges)
    with pytest.raises(InputError, match=message) as caught:
        BytePairTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_and_corrupt_files(trained, tmp_path):
    with pytest.raises(InputError, match="found no directory"):
        BytePairTokenizer.from_pretrained(tmp_path / "absent")
    with pytest.raises(InputError, match="found no tokenizer in"):
        BytePairTokenizer.from_pretrained(tmp_path)
    trained.save_pretrained(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_bytes()
    for broken in (whole[:100], b"{}", b"\xff\xfe", b""):
        (tmp_path / "tokenizer.json").write_bytes(broken)
        with pytest.raises(InputError, match=r"tokenizer\.json") as caught:
            load_tokenizer(tmp_path)
        assert "\n" not in str(caught.value)


def test_refuses_other_kinds(tmp_path):
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.Unigram([("a", 0.0)])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="found a Unigram tokenizer"):
        BytePairTokenizer.from_pretrained(tmp_path)


def test_bad_calls(trained, tmp_path):
    with pytest.raises(InputError, match="lone surrogate at character 1"):
        trained.encode("a\ud800")
    with pytest.raises(InputError, match="found bytes, expected text"):
        trained.encode(b"a")
    for wrong in (300, -1):
        with pytest.raises(InputError, match=f"found token id {wrong}, expected"):
            trained.decode([1, wrong])
    trained.decode([np.int64(1)])  # its bytes are known now
    for wrong in ([1, 1.0], [[1, 2]], np.array([[1, 2], [3, 4]]), [None], None, "ab", np.array([1.0])):
        for skip in (False, True):
            with pytest.raises(InputError, match="for token ids, expected integers in one row") as caught:
                trained.decode(wrong, skip_special_tokens=skip)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="expected integers in one row"):
        trained.stream_decoder().push(np.array([1, 2]))
    with pytest.raises(InputError, match="expected at least 257"):
        BytePairTokenizer.train(TEXTS, vocabulary_size=256)
    write_vocabulary(tmp_path, json.dumps(SMALL))
    small = BytePairTokenizer.from_pretrained(tmp_path)
    assert small.encode("abba<|endoftext|>") == [2, 1, 0, 3]
    with pytest.raises(InputError, match="found 'c' in the text"):  # it would be dropped silently
        small.encode("abc")


def test_added_tokens_of_slow_tokenizers(tmp_path):
    write_vocabulary(tmp_path, json.dumps(SMALL))
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 4}')
    assert BytePairTokenizer.from_pretrained(tmp_path).encode("a<pad>b") == [0, 4, 1]
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 7}')
    with pytest.raises(InputError, match="expected id 4"):
        BytePairTokenizer.from_pretrained(tmp_path)


def test_a_tokenizer_that_has_decoded_is_pickled_and_copied(trained):
    ids = trained.encode(TEXTS[0])
    assert trained.decode(ids) == TEXTS[0]
    for other in (pickle.loads(pickle.dumps(trained)), copy.deepcopy(trained), copy.copy(trained)):
        assert other.decode(ids) == TEXTS[0] and other.token_bytes is not trained.token_bytes


def test_bytes_of_odd_tokens():
    """A hole in the ids, a token of characters that stand for no byte, added tokens inside and outside."""
    vocabulary = {**SMALL, "\u0120b": 4, "\u65e5": 5, "\xe9": 7}
    odd = BytePairTokenizer(byte_level_backend(vocabulary, [("a", "b")]))
    odd.backend.add_tokens([tokenizers.AddedToken("\xe9", normalized=False)])
    every = [b"a", b"b", b"ab", b"<|endoftext|>", b" b", "\u65e5".encode(), None, "\xe9".encode()]
    assert list(odd.token_bytes) == every
    assert odd.decode([0, 4, 7, 5]) == "a b\xe9\u65e5"
    with pytest.raises(InputError, match=r"found token id 6, expected an id of the vocabulary \(0 to 7\)"):
        odd.decode([0, 6])
    stream = odd.stream_decoder()
    assert [stream.push(token_id) for token_id in (4, 7)] == [" b", "\xe9"]


def test_bytes_of_tokens_are_made_when_asked_for_and_once():
    asked = []
    table = TokenBytes(3, lambda token_id: asked.append(token_id) or (None if token_id == 1 else b"x"))
    assert [table[np.int64(2)], table[2], table[1], table[1]] == [b"x", b"x", None, None]
    assert asked == [2, 1]
    assert list(table) == [b"x", None, b"x"] and len(table) == 3
    for outside in (-1, 3):
        with pytest.raises(IndexError):
            table[outside]
    with pytest.raises(TypeError):
        table[2.0]
