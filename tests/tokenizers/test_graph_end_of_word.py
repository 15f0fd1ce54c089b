"""GPT-1's tokenizer in the graph: BERT's normalizer, and BPE over characters with ends of words."""

import json
import random
import re

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from tokenizers import normalizers

from tfgpt.errors import InputError
from tfgpt.tokenizers.end_of_word import EndOfWordTokenizer
from tfgpt.tokenizers.graph import GraphTokenizer
from tfgpt.tokenizers.graph_characters import NUM_CODE_POINTS
from tfgpt.tokenizers.graph_cleaning import Cleaner
from tfgpt.tokenizers.graph_composing import read_composition
from tfgpt.tokenizers.loading import load_tokenizer

GPT1 = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
OPTIONS = (
    GPT1,
    {**GPT1, "lowercase": False},
    {**GPT1, "strip_accents": False},
    {**GPT1, "strip_accents": True, "lowercase": False, "clean_text": False},
    {**GPT1, "handle_chinese_chars": False},
)
CHARACTERS = [chr(each) for each in range(NUM_CODE_POINTS) if not 0xD800 <= each < 0xE000]
DENSE = (
    "aAbB\u0130\u00e9\u1e69\u03a3\u00df.,'!-  \t\n\0\u200d\u00a0\u3000\u4e2d\uf900\uac01"
    "\u0301\u0323\u302e\u1b44\U0001d165\U0001d16d"
)


def state_of(tokenizer) -> dict:
    return json.loads(tokenizer.backend.to_str())


def changed(tokenizer, **parts) -> EndOfWordTokenizer:
    """`tokenizer` with other parts in its tokenizer.json."""
    state = state_of(tokenizer)
    for name, part in parts.items():
        state[name] = {**state[name], **part} if name == "model" else part
    return EndOfWordTokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)), None)


def dense(generator, count):
    return ["".join(generator.choices(DENSE, k=generator.randint(0, 25))) for _ in range(count)]


def check(tokenizer, texts, allow_special=True):
    """The same ids for all `texts` at once, and the same text from them."""
    graph = GraphTokenizer.from_tokenizer(tokenizer, allow_special)
    found = graph.encode(tf.constant(texts))
    expected = tokenizer.encode_batch(texts, allow_special)
    for text, ids, expected_ids in zip(texts, found.to_list(), expected, strict=True):
        assert ids == expected_ids, text
    decoded = [text.decode() for text in graph.decode(found).numpy()]
    assert decoded == [tokenizer.decode(ids) for ids in expected]


# --- the normalizer ---


@pytest.fixture(params=OPTIONS, ids=lambda options: "-".join(f"{value}"[0] for value in options.values()))
def cleaning(request):
    """The graph's normalizer and the library's, with the same options."""
    signature = [tf.TensorSpec([None], tf.string)]
    graph = tf.function(Cleaner(request.param), input_signature=signature, autograph=False)
    return graph, normalizers.BertNormalizer(**request.param)


def check_cleaning(cleaning, texts):
    graph, library = cleaning
    found = [text.decode() for text in graph(tf.constant([text.encode() for text in texts])).numpy()]
    for text, clean in zip(texts, found, strict=True):
        assert clean == library.normalize_str(text), text.encode("unicode_escape")


def test_every_code_point(cleaning):
    check_cleaning(cleaning, CHARACTERS)


def test_marks_in_any_order(cleaning):
    """Those that stay are put in order before those without width go."""
    generator = random.Random(0)
    facts = read_composition()
    marks = [chr(each) for each in np.flatnonzero(facts.ranks)]
    staying = [each for each in marks if normalizers.BertNormalizer(strip_accents=True).normalize_str(each)]
    pools = [marks, staying, list(facts.decompositions), DENSE]
    texts = [
        "".join(generator.choice(generator.choice(pools)) for _ in range(generator.randint(0, 12)))
        for _ in range(5_000)
    ]
    check_cleaning(cleaning, texts)
    check_cleaning(cleaning, dense(generator, 2_000))


# --- ids ---


@pytest.mark.parametrize("allow_special", [True, False])
def test_ids_equal_the_library(gpt1, families, allow_special):
    generator = random.Random(1)
    texts = ["", " ", "\n \n", "a", *dense(generator, 1_000), *families.strings("gpt1", generator, 1_000)]
    assert any("<unk>" in text for text in texts)
    check(gpt1, texts, allow_special)


@pytest.mark.slow
def test_ten_thousand_strings(families, data_directory, tmp_path):
    corpus = (data_directory / "tinyshakespeare/input.txt").read_text().split("\n\n")
    vocabulary = families.train_end_of_word([*corpus, *families.record_tokenizer.CASES], 8000)
    tokenizer = load_tokenizer(families.write("gpt1", *vocabulary, tmp_path))
    check(tokenizer, [*corpus, *families.strings("gpt1", random.Random(2), 10_000)])


def test_recorded_ids(gpt1, fixtures_directory):
    records = json.loads((fixtures_directory / "tokenizers/gpt1/records.json").read_text())["encoded"]
    texts = tf.constant([record["text"] for record in records])
    for allow_special, key in ((True, "ids"), (False, "plain_ids")):
        graph = GraphTokenizer.from_tokenizer(gpt1, allow_special)
        assert graph.encode(texts).to_list() == [record[key] for record in records]


def test_characters_without_a_token(gpt1):
    texts = ["\u1234", "a\u1234b\u1234\u1235", "th\u1234e"]
    check(gpt1, texts)
    check(changed(gpt1, model={"unk_token": None}), texts)  # nothing stands in their place


def test_other_parts(gpt1, families):
    texts = [*dense(random.Random(3), 300), *families.strings("gpt1", random.Random(4), 300)]
    check(changed(gpt1, normalizer=None), texts)
    check(changed(gpt1, normalizer={"type": "NFC"}), texts)
    check(changed(gpt1, model={"ignore_merges": True}), texts)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
    contents = ("The Caf\u00c9", "\u4e2d", "<x>")
    added = [
        {**flags, "id": gpt1.vocabulary_size + n, "content": content, "normalized": n < 2}
        for n, content in enumerate(contents)
    ]
    texts += ["x" + content + " y" for content in contents] + ["THE CAFE", "\u4e2d\u4e2d"]
    check(changed(gpt1, added_tokens=[*state_of(gpt1)["added_tokens"], *added]), texts)


def test_decode_ends_without_a_space(gpt1):
    graph, generator = GraphTokenizer.from_tokenizer(gpt1), random.Random(5)
    rows = [
        [generator.randrange(gpt1.vocabulary_size) for _ in range(generator.randrange(8))] for _ in range(300)
    ]
    ids = tf.ragged.constant(rows, dtype=tf.int32, row_splits_dtype=tf.int64)
    assert [text.decode() for text in graph.decode(ids).numpy()] == [gpt1.decode(row) for row in rows]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer Whitespace"),
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}},
            "end_of_word_suffix '</w>' in its model",
        ),
        ({"model": {"fuse_unk": True}}, "fuse_unk True in its model"),
        ({"model": {"unk_token": "<none>"}}, "the unknown token '<none>' outside of its vocabulary"),
    ],
)
def test_refusals(gpt1, parts, message):
    with pytest.raises(InputError, match=message) as caught:
        GraphTokenizer.from_tokenizer(changed(gpt1, **parts))
    assert "\n" not in str(caught.value)


def added_tokens(tokenizer, *contents, special=()):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return [
        *state_of(tokenizer)["added_tokens"],
        *(
            {**flags, "id": tokenizer.vocabulary_size + n, "content": content, "special": content in special}
            for n, content in enumerate(contents)
        ),
    ]


@pytest.mark.parametrize("contents", [("XYZ", "xyz"), ("\u200d",)])
def test_added_tokens_that_are_alike_or_nothing_when_normalized(gpt1, contents):
    backend = changed(gpt1, added_tokens=added_tokens(gpt1, *contents))
    with pytest.raises(InputError, match=re.escape(f"the added token {contents[-1]!r}, which is")):
        GraphTokenizer.from_tokenizer(backend)


def test_overlaps_are_those_of_normalized_text(gpt1):
    tokenizer = changed(gpt1, added_tokens=added_tokens(gpt1, "XY", "yZ", special=("XY",)))
    with pytest.raises(InputError, match="overlaps the special"):
        GraphTokenizer.from_tokenizer(tokenizer, allow_special=False)
