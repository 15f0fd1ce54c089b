"""Baselines against numbers worked out by hand."""

import lzma
import math
import random

import pytest

from tfgpt.data.packing import write_shards
from tfgpt.data.text import Document
from tfgpt.errors import InputError
from tfgpt.evaluation.baselines import (
    lzma_baseline,
    lzma_size,
    unigram_bits_per_byte,
)
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer


def test_unigram_by_hand(tmp_path):
    tokenizer = CharacterTokenizer.train(["abcé"])
    train = write_shards([Document("t", "aaabb")], tokenizer, tmp_path / "train")
    validation = write_shards([Document("v", "abcé")], tokenizer, tmp_path / "validation")
    # Counts plus one: a 4, b 3, c 1, é 1 of 9; "abcé" has five bytes.
    expected = (math.log2(9 / 4) + math.log2(9 / 3) + 2 * math.log2(9)) / 5
    assert unigram_bits_per_byte(train, validation) == pytest.approx(expected, rel=1e-12)
    other = CharacterTokenizer.train(["abcd"])
    different = write_shards([Document("v", "abcd")], other, tmp_path / "different")
    with pytest.raises(InputError, match="found validation tokens of tokenizer"):
        unigram_bits_per_byte(train, different)


def test_unigram_pays_for_the_ends_of_texts(tmp_path):
    tokenizer = BytePairTokenizer.train(["x"], 257)
    train = write_shards([Document("t", "a" * 9)], tokenizer, tmp_path / "train")  # nine a, one end
    validation = write_shards([Document("v", "aa")], tokenizer, tmp_path / "validation")
    expected = (2 * math.log2(267 / 10) + math.log2(267 / 2)) / 2
    assert unigram_bits_per_byte(train, validation) == pytest.approx(expected, rel=1e-12)


def test_lzma():
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghij", k=6)) for _ in range(500)]
    text = lambda count: " ".join(generator.choices(words, k=count)).encode()  # noqa: E731
    training, validation = text(20_000), text(2_000)
    baseline = lzma_baseline(validation, training)
    # At least as strong as xz -9e, whose container costs some 60 bytes more.
    assert lzma_size(validation) < len(lzma.compress(validation, preset=9 | lzma.PRESET_EXTREME))
    assert baseline.alone == 8 * lzma_size(validation) / len(validation)
    # Having seen the words, it need only say which; their entropy is log2(500) bits in seven bytes.
    assert math.log2(500) / 7 < baseline.given_training < 0.85 * baseline.alone
    assert baseline.training_bytes == len(training)
    part = lzma_baseline(validation, training, max_training_bytes=5000)
    assert part.training_bytes == 5000
    assert baseline.given_training < part.given_training < baseline.alone
    assert lzma_baseline(validation).given_training is None
    assert lzma_baseline(validation, training, max_training_bytes=0).given_training is None
    # The dictionary reaches back over all of the training text: a copy from its start costs next to nothing.
    noise = generator.randbytes(2_000_000)
    assert lzma_baseline(noise[:50_000], noise).given_training < 0.2
    with pytest.raises(InputError, match="found no validation text"):
        lzma_baseline(b"")
