"""Perplexity and bits per byte of losses whose answer is known."""

import math

import pytest

from tfgpt.errors import InputError
from tfgpt.evaluation.measures import bits_per_byte, perplexity


def test_conversions():
    # A uniform choice among 256 bytes, one token each: 8 bits per byte, perplexity 256.
    assert bits_per_byte(math.log(256), num_tokens=100, num_bytes=100) == pytest.approx(8.0)
    # Tokens of four bytes each: a quarter of it.
    assert bits_per_byte(math.log(256), num_tokens=25, num_bytes=100) == pytest.approx(2.0)
    assert perplexity(math.log(256)) == pytest.approx(256)
    with pytest.raises(InputError, match="found 0 bytes"):
        bits_per_byte(1.0, 1, 0)


def test_perplexity_does_not_overflow():
    assert perplexity(1e9) == math.inf
