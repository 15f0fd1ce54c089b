"""Which window of the tokens each row of each batch is: arithmetic on the seed and the row alone. No TF.

Everything here uses only `+ - * // % ^` on int64 (wrapping where it overflows), so the same
functions run on numpy arrays and inside a tf.data graph, and give the same numbers for ever: unlike
`numpy.random`, whose streams may change between versions, and `tf.random`, which numpy cannot repeat.
"""

from dataclasses import dataclass

import numpy as np

from tfgpt.errors import InputError

# Rounds of swap-or-not. Security against an adversary takes 6 log2(size); an order for training need only
# look random, which tests/data/test_windows.py checks.
ROUNDS = 32

# splitmix64's constants (Steele, Lea and Flood 2014), as signed 64-bit numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def mix(value):
    """splitmix64's finalizer on int64: a bijection in which every bit of the result hangs on all bits."""
    value = (value ^ _shifted(value, 30)) * _FIRST
    value = (value ^ _shifted(value, 27)) * _SECOND
    return value ^ _shifted(value, 31)


def _shifted(value, bits: int):
    """A logical shift to the right; an arithmetic one would make x and ~x the same in `mix`."""
    return value // 2**bits % 2 ** (64 - bits)


def shuffled(index, size: int, key):
    """Where `index` lands in a random permutation of 0 ... size - 1 chosen by `key`; any size.

    Swap-or-not (Hoang, Morris and Rogaway 2012, figure 1): each round pairs x with (K - x) mod size and a bit
    of a hash of the pair says whether the two change places. A round is its own inverse, hence a bijection.

    Args:
        index, key: int64 arrays of one shape; elements with the same key share a permutation.
        size: the number of elements.
    """
    steps = np.arange(1, ROUNDS + 1, dtype=np.int64) * _GOLDEN  # [rounds], wrapping
    round_keys = mix(key[None] + steps.reshape(-1, *[1] * len(key.shape)))  # [rounds, *shape]
    for number in range(ROUNDS):
        round_key = round_keys[number]
        partner = (round_key % size - index) % size
        # The product is the same whichever of the two is asked about, so both learn the same bit.
        swap = mix(index * partner ^ round_key) % 2
        index = index + (partner - index) * swap
    return index


@dataclass(frozen=True)
class WindowPlan:
    """The order of training windows: row after row, epoch after epoch, without end.

    An epoch visits `num_windows` windows that do not overlap, each once, in an order of its own. Where they
    begin is shifted by a random offset in each epoch, so that no token always stands at a window's edge.

        stream   ....|--- window ---|--- window ---|--- window ---|..
                 <-->                                              at most 2 windows' tokens are not visited
                 offset(seed, epoch)
    """

    num_tokens: int
    context_length: int
    seed: int

    def __post_init__(self):
        if self.context_length < 1:
            raise InputError(f"found context_length {self.context_length}, expected at least 1")
        if self.num_tokens < self.context_length + 1:
            raise InputError(
                f"found {self.num_tokens} tokens, expected at least context_length + 1 = "
                f"{self.context_length + 1}; add text or shorten the context"
            )

    @property
    def num_windows(self) -> int:
        """Windows in an epoch."""
        return max(1, self.num_tokens // self.context_length - 1)

    @property
    def num_offsets(self) -> int:
        """How many first tokens an epoch may begin at."""
        return self.num_tokens - self.num_windows * self.context_length

    def starts(self, rows):
        """The first token of each window: int64, the shape of `rows`.

        Args:
            rows: int64 numbers of rows, counted from the start of training: step * batch_size + row.
        """
        epoch = rows // self.num_windows
        key = mix(mix(epoch * 0 + _wrapped(self.seed)) + epoch)
        window = shuffled(rows % self.num_windows, self.num_windows, key)
        offset = mix(key + 1) % self.num_offsets
        return window * self.context_length + offset


def _wrapped(number: int) -> int:
    """A whole number as a signed 64-bit one."""
    return (number + 2**63) % 2**64 - 2**63


@dataclass(frozen=True)
class EvaluationPlan:
    """Windows that predict every token exactly once, each with as much context as its window has.

    With `begin`, a token put before the first, the stream is [begin, t0, t1, ...] and the window at `start`
    predicts t[start] ... t[start + context_length - 1], its first token from one token of context. With
    a stride shorter than the context, windows overlap and count only the tokens no earlier one counted.
    """

    num_tokens: int
    context_length: int
    stride: int

    def __post_init__(self):
        if self.num_tokens < 1:
            raise InputError("found no tokens to evaluate on, expected at least 1; add text")
        if not 1 <= self.stride <= self.context_length:
            raise InputError(
                f"found stride {self.stride}, expected 1 to the context_length {self.context_length}; leave "
                "it out for windows that do not overlap"
            )

    @property
    def num_windows(self) -> int:
        """The number of windows."""
        rest = max(0, self.num_tokens - self.context_length)
        return 1 + -(-rest // self.stride)

    @property
    def num_repeated(self) -> int:
        """How many first places of every window but the first were counted by an earlier one."""
        return self.context_length - self.stride
