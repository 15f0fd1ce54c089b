"""Filters and draws against arrays worked out by hand, and the properties of the random draws."""

import numpy as np
import pytest

from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.samplers import (
    MinP,
    RepetitionPenalty,
    Sampler,
    Temperature,
    TopK,
    TopP,
    draw,
    filters_of,
    log_probabilities,
    uniform,
)

INF = np.inf
NO_TOKENS = np.array([], np.int64)


def row(*values):
    return np.array(values, np.float32)


def log_row(*probabilities):
    return np.log(np.array(probabilities, np.float32))


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once():
    logits = row(2.0, -2.0, 0.0, 3.0)
    # Token 0 was seen three times and is still divided once.
    result = RepetitionPenalty(2.0)(logits, np.array([0, 1, 0, 2, 0]))
    np.testing.assert_array_equal(result, row(1.0, -4.0, 0.0, 3.0))
    np.testing.assert_array_equal(logits, row(2.0, -2.0, 0.0, 3.0))


def test_temperature_divides():
    np.testing.assert_array_equal(Temperature(0.5)(row(1, -2, 4), NO_TOKENS), row(2, -4, 8))


def test_top_k_keeps_k_and_ties_with_the_last_of_them():
    np.testing.assert_array_equal(TopK(2)(row(1, 5, 3, 2), NO_TOKENS), row(-INF, 5, 3, -INF))
    np.testing.assert_array_equal(TopK(2)(row(1, 5, 3, 3), NO_TOKENS), row(-INF, 5, 3, 3))
    np.testing.assert_array_equal(TopK(9)(row(1, 5, 3, 2), NO_TOKENS), row(1, 5, 3, 2))


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.05, [0]), (0.49, [0]), (0.51, [0, 2]), (0.74, [0, 2]), (0.76, [0, 1, 2]), (0.99, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_fewest_tokens_that_reach_p(p, kept):
    logits = log_row(0.5, 0.15, 0.25, 0.1)
    expected = np.full(4, -INF, np.float32)
    expected[kept] = logits[kept]
    np.testing.assert_array_equal(TopP(p)(logits, NO_TOKENS), expected)


def test_top_p_ignores_what_was_removed_before():
    # Of the two that are left the first holds 2/3.
    np.testing.assert_array_equal(TopP(0.6)(row(np.log(2), -INF, 0), NO_TOKENS), row(np.log(2), -INF, -INF))


def test_top_p_reaches_past_its_first_slice():
    # 4,000 equal tokens: half the mass needs 2,000 of them.
    assert np.isfinite(TopP(0.5)(np.zeros(4000, np.float32), NO_TOKENS)).sum() == 2000


def test_min_p_is_relative_to_the_best():
    logits = log_row(0.5, 0.3, 0.15, 0.05)
    np.testing.assert_array_equal(MinP(0.4)(logits, NO_TOKENS), row(logits[0], logits[1], -INF, -INF))


def test_filters_run_in_the_documented_order():
    every = GenerationOptions(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.2)
    assert [type(item) for item in filters_of(every)] == [RepetitionPenalty, Temperature, TopK, TopP, MinP]
    assert filters_of(GenerationOptions(temperature=1.0)) == ()
    greedy = GenerationOptions(top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.2)
    assert [type(item) for item in filters_of(greedy)] == [RepetitionPenalty]


def test_greedy_takes_the_largest_and_the_first_of_equals():
    assert Sampler(GenerationOptions())(row(1, 7, 7, 2), NO_TOKENS, 0, 0) == 1
    penalised = Sampler(GenerationOptions(repetition_penalty=2.0))
    for seen in (np.array([1]), [1, 1], (1,)):
        assert penalised(row(5, 7, 6, 2), seen, 0, 0) == 2
    assert penalised(row(5, 7, 6, 2), [], 0, 0) == 1


def test_draw_walks_the_cumulated_probabilities_in_id_order():
    logits = row(np.log(1), -INF, np.log(2), np.log(1))  # 1/4, 0, 1/2, 1/4
    points = [0.0, 0.24, 0.26, 0.74, 0.76, np.nextafter(1.0, 0.0)]
    assert [draw(logits, point) for point in points] == [0, 0, 2, 2, 3, 3]


def test_draw_at_an_edge_takes_the_token_that_begins_there():
    assert [draw(np.zeros(4, np.float32), point) for point in (0.0, 0.25, 0.5, 0.75)] == [0, 1, 2, 3]
    # exp(-200) is 0 in float32: never drawn, not even by 0.
    assert draw(row(-200, 0, 0), 0.0) == 1


def test_draws_follow_the_distribution():
    probabilities = np.array([0.1, 0.2, 0.3, 0.4])
    sampler = Sampler(GenerationOptions(temperature=1.0))
    logits = np.log(probabilities).astype(np.float32)
    count = 4000
    drawn = [sampler(logits, NO_TOKENS, 3, position) for position in range(count)]
    counts = np.bincount(drawn, minlength=4)
    # Chi-squared with three degrees of freedom: above 16.3 once in a thousand seeds; this seed is fixed.
    assert ((counts - count * probabilities) ** 2 / (count * probabilities)).sum() < 16.3


def test_uniform_depends_on_seed_and_position_alone():
    first = [uniform(7, position) for position in range(100)]
    np.random.default_rng(0).random(5)
    assert first == [uniform(7, position) for position in range(100)]
    assert len(set(first)) == 100
    assert uniform(8, 0) != uniform(7, 0)
    assert min(first) >= 0 and max(first) < 1
    assert 0 <= uniform(2**64 - 1, 10**6) < 1
    # Written down, so that a seed means the same text in every version.
    assert (uniform(0, 0), uniform(7, 3)) == (0.011546754286331562, 0.44205212947108785)


def test_log_probability_is_that_of_the_softmax():
    assert log_probabilities(log_row(0.5, 0.3, 0.2))[1] == pytest.approx(np.log(0.3), abs=1e-6)
    assert log_probabilities(row(1000, 0, 1000))[0] == pytest.approx(np.log(0.5), abs=1e-6)
