"""The tokenizer in the graph: ids equal to the `tokenizers` library's, in tf.data and in a SavedModel."""

import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers

from tfgpt.errors import InputError
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer
from tfgpt.tokenizers.graph import GraphTokenizer
from tfgpt.tokenizers.graph_characters import NUM_CODE_POINTS
from tfgpt.tokenizers.graph_plan import O200K_PATTERN, Splitting
from tfgpt.tokenizers.graph_splitting import Splitter
from tfgpt.tokenizers.loading import load_tokenizer

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TEXTS = [
    "it's the quick brown fox, jumping over the lazy dog\n" * 20,
    "naïve café — 日本語 👍🏽 12345\n" * 20,
]
# What the expressions tell apart, thickly: cases, marks, contractions, spaces, digits.
DENSE = "aAbBsSſtTrReEvVlLmMdD''''  \n\r\t\u00a0/.!0१Ⅷǅʰªא\u0301\u0336中か-👍\u3000ß"
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False}
VARIANTS = ("gpt2", "plain", "prefix", "added", "o200k", "nfc")


@pytest.fixture(scope="module")
def gpt2(data_directory):
    return BytePairTokenizer.from_pretrained(data_directory / "gpt2_bpe")


@pytest.fixture(scope="module")
def of_gpt2(gpt2):
    """(tokenizer, graph) of a variant of GPT-2's vocabulary, made once: its 50,000 tokens take seconds."""

    @functools.cache
    def make(name):
        tokenizer = variant(gpt2, name)
        return tokenizer, GraphTokenizer.from_tokenizer(tokenizer)

    return make


@pytest.fixture(scope="module")
def trained():
    return BytePairTokenizer.train(TEXTS, vocabulary_size=400)


@pytest.fixture
def random_string(fixture_module):
    return fixture_module("record_tokenizer").random_string


def changed(tokenizer, **parts):
    """`tokenizer` with other parts in its tokenizer.json."""
    state = json.loads(tokenizer.backend.to_str())
    for name, part in parts.items():
        state[name] = {**state[name], **part} if name == "model" else part
    return BytePairTokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)))


def variant(tokenizer, name):
    """What the families make of byte-level BPE; "added" and "nfc" have GPT-NeoX's runs of spaces."""
    state = json.loads(tokenizer.backend.to_str())
    spaces = [
        {"id": tokenizer.vocabulary_size + n, "content": " " * (24 - n), "normalized": True, "special": False}
        for n in range(23)
    ]
    accent = {
        "id": tokenizer.vocabulary_size + 23,
        "content": "e\u0301.",
        "normalized": True,
        "special": False,
    }
    added = [{**FLAGS, **token} for token in (*state["added_tokens"], *spaces, accent)]
    if name == "prefix":
        return changed(tokenizer, pre_tokenizer={**state["pre_tokenizer"], "add_prefix_space": True})
    if name == "o200k":
        split = {
            "type": "Split", "pattern": {"Regex": O200K_PATTERN}, "behavior": "Isolated", "invert": False,
        }  # fmt: skip
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        sequence = {"type": "Sequence", "pretokenizers": [split, level]}
        return changed(tokenizer, pre_tokenizer=sequence, model={"ignore_merges": True})
    if name == "added":
        return changed(tokenizer, added_tokens=added)
    if name == "nfc":
        return changed(tokenizer, added_tokens=added, normalizer={"type": "NFC"})
    return tokenizer


def check(tokenizer, texts, allow_special=True):
    """The same ids for all `texts` at once, and their bytes again."""
    check_graph(tokenizer, GraphTokenizer.from_tokenizer(tokenizer, allow_special), texts, allow_special)


def check_graph(tokenizer, graph, texts, allow_special=True):
    found = graph.encode(tf.constant(texts))
    expected = tokenizer.encode_batch(texts, allow_special)
    for text, ids, expected_ids in zip(texts, found.to_list(), expected, strict=True):
        assert ids == expected_ids, text
    decoded = [text.decode(errors="replace") for text in graph.decode(found).numpy()]
    assert decoded == [tokenizer.decode(ids) for ids in expected]


def strings(random_string, count):
    generator = random.Random(11)
    dense = ["".join(generator.choices(DENSE, k=generator.randint(0, 25))) for _ in range(count // 2)]
    return ["", " ", "\n \n", *dense, *(random_string(generator) for _ in range(count - count // 2))]


@pytest.mark.parametrize("name", VARIANTS)
def test_ids_equal_the_library(trained, random_string, name):
    check(variant(trained, name), strings(random_string, 1000), allow_special=name != "plain")


@pytest.mark.parametrize("name", ["gpt2", "o200k"])
def test_gpt2_vocabulary(of_gpt2, random_string, name):
    check_graph(*of_gpt2(name), strings(random_string, 1000))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_ten_thousand_strings(gpt2, random_string, name):
    generator = random.Random(2)
    texts = [random_string(generator) for _ in range(10_000)]
    assert sum("<|endoftext|>" in text for text in texts) > 500
    check(variant(gpt2, name), texts, allow_special=name != "plain")


def test_recorded_ids(gpt2):
    records = json.loads((FIXTURES / "tokenizer_gpt2.json").read_text())
    texts = tf.constant([record["text"] for record in records])
    for allow_special, key in ((True, "ids"), (False, "plain_ids")):
        graph = GraphTokenizer.from_tokenizer(gpt2, allow_special)
        assert graph.encode(texts).to_list() == [record[key] for record in records]


@pytest.mark.parametrize("name", ["gpt2", "o200k"])
def test_real_text(of_gpt2, data_directory, name):
    for path in ("tinyshakespeare/input.txt", "wikitext2/valid.txt"):
        text = (data_directory / path).read_text(encoding="utf-8")
        check_graph(*of_gpt2(name), [text])
        check_graph(*of_gpt2(name), text.split("\n"))


def test_long_runs(of_gpt2):
    generator = random.Random(1)
    runs = [unit * 4000 for unit in ("a", " ", "!", "ab", "\n ", "日本", "👍", "'s", "1", "é")]
    check_graph(*of_gpt2("gpt2"), [*runs, "".join(generator.choices("abcdefghij", k=3000))])
    check_graph(*of_gpt2("o200k"), runs)


# --- pieces ---

PRE_TOKENIZERS = {
    Splitting.GPT2: pre_tokenizers.Split(
        Regex(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
        behavior="isolated",
    ),
    Splitting.O200K: pre_tokenizers.Split(Regex(O200K_PATTERN), behavior="isolated"),
    Splitting.BERT: pre_tokenizers.BertPreTokenizer(),
}


@pytest.fixture(scope="module")
def split():
    """Pieces of each text, by the graph."""
    texts = tf.TensorSpec([None], tf.string)
    graphs = {kind: tf.function(Splitter(kind), [texts], autograph=False) for kind in Splitting}
    return lambda kind, texts: graphs[kind](
        tf.constant([text.encode() for text in texts], tf.string)
    ).to_list()


def expected_pieces(kind, texts):
    return [[piece.encode() for piece, _ in PRE_TOKENIZERS[kind].pre_tokenize_str(text)] for text in texts]


@pytest.mark.parametrize("kind", Splitting, ids=lambda kind: kind.name)
@settings(max_examples=60)
@given(
    st.lists(
        st.text(st.one_of(st.sampled_from(DENSE), st.characters()), max_size=30), min_size=1, max_size=20
    )
)
@example(["a  ", "a \n", "a  b", "a \n b", "  ", "\n", "a\n\n"])  # spaces at the end, and before something
@example(["''s", " 's", "a's's", "'lls", "'re've", "'S'LL", "'ſ", "a'", "'", "a's\u0301"])
@example(["1", "123", "1234", " 1234567 89", "a12345b", "१२३४"])
def test_pieces_equal_the_library(split, kind, texts):
    assert split(kind, texts) == expected_pieces(kind, texts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", Splitting, ids=lambda kind: kind.name)
def test_pieces_around_every_code_point(split, kind):
    """No character is taken for another class, those that the table only presumes included."""
    for start in range(0, NUM_CODE_POINTS, 1 << 16):
        points = [chr(each) for each in range(start, start + (1 << 16)) if not 0xD800 <= each < 0xE000]
        texts = [
            "".join(f"a{c}1{c}.{c}A{c} '{c}" for c in points[i : i + 64]) for i in range(0, len(points), 64)
        ]
        assert split(kind, texts) == expected_pieces(kind, texts)


# --- merges ---


def test_merges_out_of_order(trained):
    """A made list in which a merge makes way for one of lower rank: then one place at a time is merged."""
    vocabulary = trained.backend.get_vocab(with_added_tokens=False)
    vocabulary = {token: vocabulary[token] for token in sorted(vocabulary, key=vocabulary.get)[:256]}
    for token in ("ab", "aba", "abab", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    merges = [("ab", "a"), ("a", "b"), ("ab", "ab")]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = BytePairTokenizer(backend)
    assert tokenizer.encode("abab") == [vocabulary["aba"], vocabulary["b"]]  # not "ab", "ab"
    generator = random.Random(0)
    check(tokenizer, ["".join(generator.choices("ab", k=generator.randint(1, 12))) for _ in range(500)])


# --- interface ---


def test_invalid_utf8(trained):
    texts = [
        b"a\xff\xe2\x82b\xed\xa0\x80c\xf0\x9f",
        b"\xc0\x80 \xf5",
        b"\xe2",
        b"<|endoftext|>\xff<|endoftext|>",
        b"ok",
    ]
    generator = np.random.default_rng(0)
    texts += [
        bytes(generator.choice([65, 0x80, 0xBF, 0xC3, 0xE2, 0xED, 0xF0, 0xFF], 12).tolist())
        for _ in range(500)
    ]
    found = GraphTokenizer.from_tokenizer(trained).encode(tf.constant(texts)).to_list()
    assert found == trained.encode_batch([text.decode(errors="replace") for text in texts])


def test_decode_gives_bytes_and_refuses_other_ids(trained):
    graph = GraphTokenizer.from_tokenizer(trained)
    generator = random.Random(3)
    rows = [[generator.randrange(256) for _ in range(generator.randrange(20))] for _ in range(100)]
    found = graph.decode(tf.ragged.constant(rows, dtype=tf.int32, row_splits_dtype=tf.int64)).numpy()
    assert [text.decode(errors="replace") for text in found] == [trained.decode(row) for row in rows]
    for wrong in (-1, trained.vocabulary_size):
        with pytest.raises(tf.errors.InvalidArgumentError):
            graph.decode(
                tf.RaggedTensor.from_row_lengths(tf.constant([1, wrong]), tf.constant([2], tf.int64))
            )


def test_padded(trained):
    graph = GraphTokenizer.from_tokenizer(trained)
    texts = ["", "the quick brown fox", "the"]
    rows = trained.encode_batch(texts)
    for length in (-1, 2, 50):
        ids, mask = graph.encode_padded(tf.constant(texts), length, 7)
        width = max(map(len, rows)) if length < 0 else length
        assert ids.shape == mask.shape == (3, width)
        for row, found, real in zip(rows, ids.numpy(), mask.numpy(), strict=True):
            kept = row[:width]
            assert found.tolist() == kept + [7] * (width - len(kept))
            assert real.tolist() == [True] * len(kept) + [False] * (width - len(kept))
    assert graph.encode_padded(tf.constant([], tf.string), -1, 0)[0].shape == (0, 0)


def test_in_a_dataset(trained):
    graph = GraphTokenizer.from_tokenizer(trained)
    lines = [*TEXTS[0].split("\n"), *TEXTS[1].split("\n"), "", "a<|endoftext|>b"]
    expected = trained.encode_batch(lines)
    texts = tf.data.Dataset.from_tensor_slices(lines)
    single = texts.map(graph.encode_one, num_parallel_calls=2)
    assert [row.tolist() for row in single.as_numpy_iterator()] == expected
    batches = texts.batch(8).map(graph.encode).unbatch()
    assert [row.numpy().tolist() for row in batches] == expected
    assert graph.encode(tf.constant([], tf.string)).to_list() == []


# `import tensorflow` imports keras itself where it is installed, so this process is one where nothing is
# installed but TensorFlow and what it needs.
LOAD = """
import importlib.machinery, json, sys

ABSENT = {{"tensorflow_text", "keras", "keras_hub", "tf_keras", "tfgpt", "tokenizers"}}

class WithoutThem(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

place = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[place] = WithoutThem
import tensorflow as tf
cases = json.load(open({cases!r}))
for directory, texts, expected, decoded in cases:
    loaded = tf.saved_model.load(directory)
    ids = loaded.encode(tf.constant(texts))
    assert ids.to_list() == expected
    assert [text.decode() for text in loaded.decode(ids).numpy()] == decoded
    assert loaded.encode_one(tf.constant(texts[1])).numpy().tolist() == expected[1]
    assert loaded.encode_padded(tf.constant(texts), -1, 0)[1].shape[0] == len(texts)
    lines = tf.data.Dataset.from_tensor_slices(texts).batch(3).map(loaded.encode).unbatch()
    assert [row.numpy().tolist() for row in lines] == expected
print(sorted(ABSENT & set(sys.modules)), len(cases))
"""


@pytest.mark.slow
def test_saved_models_need_tensorflow_alone(trained, of_gpt2, random_string, python, tmp_path):
    texts = strings(random_string, 200)
    others = {name: variant(trained, name) for name in ("o200k", "added", "nfc")}
    others["characters"] = CharacterTokenizer.train(texts)
    others["gpt1"] = load_tokenizer(FIXTURES / "tokenizers" / "gpt1")
    sides = {"gpt2": of_gpt2("gpt2")}
    for name, tokenizer in others.items():
        sides[name] = tokenizer, GraphTokenizer.from_tokenizer(tokenizer)
    cases = []
    for name, (tokenizer, graph) in sides.items():
        graph.save(tmp_path / name)
        ids = tokenizer.encode_batch(texts)
        cases.append((str(tmp_path / name), texts, ids, [tokenizer.decode(row) for row in ids]))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    assert python(LOAD.format(cases=str(tmp_path / "cases.json"))) == "[] 6\n"

    # encoder.json and vocab.bpe have 1.5 MB; each of the functions carries the tables that it uses.
    assert sum(path.stat().st_size for path in (tmp_path / "gpt2").rglob("*") if path.is_file()) < 12e6


def test_characters(tmp_path):
    tokenizer = CharacterTokenizer.train([DENSE])
    tokenizer.save_pretrained(tmp_path)
    graph = GraphTokenizer.from_pretrained(tmp_path)
    texts = ["", "'s", DENSE, DENSE[::-1]]
    ids = graph.encode(tf.constant(texts))
    assert ids.to_list() == tokenizer.encode_batch(texts)
    assert [text.decode() for text in graph.decode(ids).numpy()] == texts
    with pytest.raises(tf.errors.InvalidArgumentError, match="outside of the alphabet"):
        graph.encode(tf.constant(["a", "ü"]))


ADDED = {**FLAGS, "id": 400, "content": "<x>", "normalized": False, "special": False}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase, expected none, NFC or BERT's"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer Whitespace, expected ByteLevel"),
        ({"pre_tokenizer": None}, "pre-tokenizer none"),
        ({"pre_tokenizer": {"type": "BertPreTokenizer"}}, "BytePairTokenizer cut by white space"),
        ({"model": {"dropout": 0.1}}, "dropout 0.1 in its model"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix '</w>'"),
        ({"added_tokens": [{**ADDED, "lstrip": True}]}, "added token '<x>' with lstrip"),
        ({"added_tokens": [{**ADDED, "rstrip": True}]}, "added token '<x>' with rstrip"),
        ({"added_tokens": [{**ADDED, "single_word": True}]}, "added token '<x>' with single_word"),
        (
            {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
            "stored truncation",
        ),
    ],
)
def test_refusals(trained, parts, message):
    with pytest.raises(InputError, match=message) as caught:
        GraphTokenizer.from_tokenizer(changed(trained, **parts))
    assert "\n" not in str(caught.value)


def test_refuses_an_incomplete_vocabulary_and_overlapping_tokens(trained, tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}')
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(InputError, match="lacks 254 of 256 bytes"):
        GraphTokenizer.from_pretrained(tmp_path)
    overlapping = [
        {**ADDED, "id": trained.end_of_text_id, "content": "<|endoftext|>", "special": True},
        {**ADDED, "content": ">>"},
    ]
    tokenizer = changed(trained, added_tokens=overlapping)
    check(tokenizer, ["a<|endoftext|>>b", "<|endoftext|>>>"])
    with pytest.raises(InputError, match="'>>', which overlaps the special"):
        GraphTokenizer.from_tokenizer(tokenizer, allow_special=False)
