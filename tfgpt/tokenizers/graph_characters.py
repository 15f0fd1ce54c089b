"""A table over all code points, small enough for a graph, and the classes that a library's regex sees.

RE2, ICU, Python and the `tokenizers` library each have a version of Unicode of their own, and differ on what
is a letter. So the classes are read off the library: its `Split` says which characters a class matches.
"""

import functools

import numpy as np
import tensorflow as tf
from tokenizers import Regex, pre_tokenizers

NUM_CODE_POINTS = 0x110000
_BLOCK_BITS = 7


class CodePointTable:
    """A value for every code point, as blocks of 128 that are stored once each.

    `table(code_points)` [...] int32 -> the values, of the dtype and type that `values` has.
    """

    def __init__(self, values: np.ndarray):
        blocks, numbers = np.unique(values.reshape(-1, 1 << _BLOCK_BITS), axis=0, return_inverse=True)
        self._offsets = tf.constant(numbers.reshape(-1) << _BLOCK_BITS, tf.int32)
        self._values = tf.constant(blocks.reshape(-1))

    def __call__(self, code_points: tf.Tensor) -> tf.Tensor:
        offsets = tf.gather(self._offsets, tf.bitwise.right_shift(code_points, _BLOCK_BITS))
        within = tf.bitwise.bitwise_and(code_points, (1 << _BLOCK_BITS) - 1)
        return tf.gather(self._values, offsets + within)


# What tells the classes of every supported expression apart; a character is in exactly one of them.
_ATOMS = (r"[\p{Lu}\p{Lt}]", r"\p{Ll}", r"[\p{Lm}\p{Lo}]", r"\p{M}", r"\p{N}", r"\s", r"[^\p{L}\p{M}\p{N}\s]")


def matching(pattern: str, code_points: np.ndarray) -> np.ndarray:
    """bool [C]: which of `code_points` [C] match the pattern of a character, r"\\p{L}" or "(?i:s)"."""
    splitter = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), behavior="removed")
    found = np.ones(len(code_points), bool)
    for _, (first, last) in splitter.pre_tokenize_str("".join(map(chr, code_points))):
        found[first:last] = False
    return found


@functools.cache
def class_runs() -> np.ndarray:
    """int [R]: the first code points of runs whose characters are all in the same classes.

    Planes 4 to 13 have no characters in any version of Unicode, planes 15 and 16 are for private use: they
    follow what comes before them. So do surrogates, which are no characters.
    """
    code_points = np.r_[0:0xD800, 0xE000:0x40000, 0xE0000:0xF0000]
    splitter = pre_tokenizers.Split(Regex("|".join(f"{atom}+" for atom in _ATOMS)), behavior="isolated")
    pieces = splitter.pre_tokenize_str("".join(map(chr, code_points)))
    breaks = code_points[[first for _, (first, _) in pieces]]
    # Runs that go on over a gap do so in the table as well, as the gap follows what comes before it.
    return np.union1d(breaks, [0x40000, 0xE0000, 0xF0000])


def members(pattern: str) -> np.ndarray:
    """bool [0x110000]: the characters in a class that is made of whole `_ATOMS`, such as r"\\p{L}"."""
    runs = class_runs()
    return np.repeat(matching(pattern, runs), np.diff(runs, append=NUM_CODE_POINTS))


def letter_variants(letter: str) -> np.ndarray:
    """The code points that `letter` stands for where case is ignored: "s" has "S" and "ſ"."""
    letters = _letters_like("stmdrevl")
    return letters[matching(f"(?i:{letter})", letters)]


@functools.cache
def _letters_like(letters: str) -> np.ndarray:
    cased = np.flatnonzero(members(r"[\p{L}\p{M}]"))
    return cased[matching(f"(?i:[{letters}])", cased)]
