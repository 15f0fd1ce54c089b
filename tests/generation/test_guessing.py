"""Guesses by looking up: written out by hand."""

import pytest

from tfgpt.generation.guessing import GuessLength, guess


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ([], 3, []),
        ([7], 3, []),
        ([1, 2, 3], 3, []),
        ([1, 2, 3, 1], 0, []),
        # After the 1 came 2 and 3, and then what is there now.
        ([1, 2, 3, 1], 2, [2, 3]),
        ([1, 2, 3, 1], 5, [2, 3, 1, 2, 3]),
        ([5, 5], 3, [5, 5, 5]),
        # Of two places of the last token the later one.
        ([4, 8, 4, 9, 4], 1, [9]),
        # But rather a place of the last two.
        ([3, 4, 8, 7, 4, 9, 3, 4], 2, [8, 7]),
        # Four at most are compared, and the last place of those counts.
        ([0, 1, 2, 3, 4, 6, 9, 1, 2, 3, 4, 7, 0, 1, 2, 3, 4], 1, [7]),
    ],
)
def test_what_followed_the_last_tokens(text, count, expected):
    assert guess(text, count) == expected


def test_the_length_follows_success():
    length = GuessLength(8)
    assert length.now == 8
    for guessed, right, expected in (
        (8, 0, 4),
        (4, 1, 4),
        (4, 0, 2),
        (2, 0, 1),
        (1, 0, 1),
        (0, 0, 1),
        (1, 1, 2),
    ):
        length.learn(guessed, right)
        assert length.now == expected
    for _ in range(5):
        length.learn(length.now, length.now)
    assert length.now == 8
    assert GuessLength(0).now == 0
