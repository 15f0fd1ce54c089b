"""Normal form C in the graph: the `tokenizers` library's, for every character and for marks in any order."""

import random

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import normalizers

from tfgpt.tokenizers.graph_characters import NUM_CODE_POINTS
from tfgpt.tokenizers.graph_composing import Composer, read_composition

HANGUL = "\u1100\u1161\u11a8\uac00\uac01\u1112\u1175\u11c2 "


@pytest.fixture(scope="module")
def compose():
    composer = Composer()
    return tf.function(lambda texts: composer(texts), input_signature=[tf.TensorSpec([None], tf.string)])


def check(compose, texts):
    found = [text.decode() for text in compose(tf.constant(texts)).numpy()]
    library = normalizers.NFC()
    for text, normal in zip(texts, found, strict=True):
        assert normal == library.normalize_str(text), text.encode("unicode_escape")


def test_the_tables_have_all_of_unicode():
    facts = read_composition()
    # 11,172 syllables of Hangul, and what Unicode 16 and 17 list (UnicodeData.txt, field 5); older ones less.
    assert len(facts.decompositions) >= 11_172 + 2_060
    assert facts.decompositions["\u1e69"] == "s\u0323\u0307"
    assert facts.pairs["\u1e63", "\u0307"] == "\u1e69"
    assert facts.ranks[ord("\u0323")] < facts.ranks[ord("\u0307")] and facts.ranks[ord("s")] == 0


def test_every_code_point(compose):
    check(compose, [chr(each) for each in range(NUM_CODE_POINTS) if not 0xD800 <= each < 0xE000])


def test_text_that_is_normal_stays(compose):
    check(compose, ["", "plain", "na\u00efve caf\u00e9", "\uac00\uac01", "\0", "\u65e5\u672c\u8a9e"])


def test_marks_in_any_order(compose):
    facts, generator = read_composition(), random.Random(0)
    firsts, seconds = zip(*facts.pairs, strict=True)
    marks = [chr(each) for each in np.flatnonzero(facts.ranks)]
    pools = [
        marks,
        firsts,
        seconds,
        list(facts.decompositions),
        ["a", "e", "\u0301", "\u0323", "\u0302", " ", "\0"],
    ]
    texts = [
        "".join(generator.choice(generator.choice(pools)) for _ in range(generator.randint(0, 12)))
        for _ in range(10_000)
    ]
    check(compose, texts)


def test_a_mark_between_two_that_compose(compose):
    facts, generator = read_composition(), random.Random(1)
    marks = [chr(each) for each in np.flatnonzero(facts.ranks)]
    pairs = generator.choices(list(facts.pairs), k=3_000)
    check(compose, [first + generator.choice(marks) + second for first, second in pairs])
    check(compose, [letter + mark for letter in "aeo\u00e2" for mark in marks])
    check(compose, ["".join(generator.choices(HANGUL, k=6)) for _ in range(3_000)])
