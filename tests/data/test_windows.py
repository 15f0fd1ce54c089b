"""The order of windows: permutations, epochs, and that they look random."""

import numpy as np
import pytest

from tfgpt.data.windows import EvaluationPlan, WindowPlan, mix, shuffled
from tfgpt.errors import InputError


def order(size, key):
    index = np.arange(size, dtype=np.int64)
    return shuffled(index, size, np.full(size, key, np.int64))


def test_mix_by_hand():
    """splitmix64's finalizer in Python's whole numbers."""

    def expected(value):
        value %= 2**64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        value ^= value >> 31
        return (value + 2**63) % 2**64 - 2**63

    values = [0, 1, -1, 12345, 2**62, -(2**63), 2**63 - 1]
    assert mix(np.array(values)).tolist() == [expected(value) for value in values]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_every_size_is_permuted(size):
    for key in (0, 1, -5, 2**63 - 1):
        assert sorted(order(size, key).tolist()) == list(range(size))


def test_orders_look_random():
    """Each element lands everywhere equally often, and neighbours do not stay neighbours."""
    size, keys = 50, 4000
    index = np.tile(np.arange(size), (keys, 1))
    places = shuffled(index, size, mix(np.arange(keys))[:, None] + 0 * index)  # [keys, size]
    counts = np.stack([np.bincount(places[:, index], minlength=size) for index in range(size)])
    expected = keys / size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    # 49 * 49 degrees of freedom: mean 2401, standard deviation 69.
    assert abs(chi_squared - 2401) < 5 * 69
    # The places of neighbours differ by d in 2 (n - d) of n (n - 1) cases: correlation -1 / (n - 1).
    correlation = np.corrcoef(places[:, :-1].ravel(), places[:, 1:].ravel())[0, 1]
    assert abs(correlation + 1 / (size - 1)) < 0.01


def test_the_order_is_fixed_for_ever():
    """A change of these numbers changes every run that is resumed."""
    assert order(10, 0).tolist() == [2, 4, 1, 6, 7, 9, 5, 3, 0, 8]
    assert WindowPlan(1000, 64, seed=7).starts(np.arange(6)).tolist() == [698, 826, 890, 762, 506, 58]


@pytest.mark.parametrize(
    ("num_tokens", "length"), [(1000, 64), (129, 64), (128, 64), (65, 64), (7, 3), (2, 1)]
)
def test_epochs(num_tokens, length):
    plan = WindowPlan(num_tokens, length, seed=3)
    orders = []
    for epoch in range(30):
        rows = epoch * plan.num_windows + np.arange(plan.num_windows)
        starts = plan.starts(rows)
        assert starts.min() >= 0
        assert starts.max() + length + 1 <= num_tokens  # the last label is inside
        assert sorted(np.diff(np.sort(starts)).tolist()) == [length] * (plan.num_windows - 1)
        orders.append(tuple(starts.tolist()))
    if num_tokens > 65:
        assert len(set(orders)) > 1
    if num_tokens == 1000:
        assert len(set(orders)) == 30
        assert len({min(starts) for starts in orders}) > 15  # of 64 offsets
        assert plan.num_windows * length >= num_tokens - 2 * length


def test_seeds_and_any_integer_seed():
    rows = np.arange(20)
    starts = [
        tuple(WindowPlan(5000, 10, seed).starts(rows).tolist()) for seed in (0, 1, -1, 2**63, 2**70 + 5)
    ]
    assert len(set(starts)) == 5


def test_evaluation_plan_counts_every_token_once():
    for num_tokens in range(1, 40):
        for length in (1, 2, 5, 16):
            for stride in range(1, length + 1):
                plan = EvaluationPlan(num_tokens, length, stride)
                counted = np.zeros(num_tokens, int)
                for number in range(plan.num_windows):
                    first = number * stride + (0 if number == 0 else plan.num_repeated)
                    assert first < num_tokens  # no window without work
                    counted[first : number * stride + length] += 1
                assert (counted == 1).all()


def test_errors():
    with pytest.raises(InputError, match="found 64 tokens, expected at least context_length \\+ 1 = 65"):
        WindowPlan(64, 64, 0)
    with pytest.raises(InputError, match="found context_length 0"):
        WindowPlan(64, 0, 0)
    for stride in (0, 9):
        with pytest.raises(InputError, match=f"found stride {stride}"):
            EvaluationPlan(100, 8, stride)
    with pytest.raises(InputError, match="found no tokens"):
        EvaluationPlan(0, 8, 8)
