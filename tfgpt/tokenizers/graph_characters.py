"""A table over all code points, small enough for a graph, and the classes that a library's regex sees.

RE2, ICU, Python and the `tokenizers` library each have a version of Unicode of their own, and differ on what
is a letter. So the classes are read off the library: its `Split` says which characters a class matches.
"""

import functools
from collections.abc import Iterable

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
        numbers: dict[bytes, int] = {}  # by its bytes, which takes a tenth of the time that np.unique does
        blocks = values.reshape(-1, 1 << _BLOCK_BITS)
        offsets = [numbers.setdefault(block.tobytes(), len(numbers)) << _BLOCK_BITS for block in blocks]
        self._offsets = tf.constant(offsets, tf.int32)
        self._values = tf.constant(np.frombuffer(b"".join(numbers), values.dtype))

    def __call__(self, code_points: tf.Tensor) -> tf.Tensor:
        offsets = tf.gather(self._offsets, tf.bitwise.right_shift(code_points, _BLOCK_BITS))
        within = tf.bitwise.bitwise_and(code_points, (1 << _BLOCK_BITS) - 1)
        return tf.gather(self._values, offsets + within)


class CodePointMap:
    """Characters that become others, several or none: `{"é": "e\u0301", "\0": ""}`; all the rest stay.

    `map(code_points, owners)`: int32 [C] and the numbers of the texts they are of, int64 [C] -> the same of
    what they become.
    """

    def __init__(self, replacements: dict[str, str]):
        different = {text: row for row, text in enumerate(dict.fromkeys(replacements.values()), start=1)}
        rows = np.zeros(NUM_CODE_POINTS, np.int32)
        rows[[ord(each) for each in replacements]] = [different[text] for text in replacements.values()]
        parts = np.full((1 + len(different), max(map(len, different), default=1) or 1), -1, np.int32)
        for text, row in different.items():
            parts[row, : len(text)] = [ord(each) for each in text]
        self._rows, self._parts = CodePointTable(rows), tf.constant(parts)

    def __call__(self, code_points: tf.Tensor, owners: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = self._rows(code_points)
        parts = tf.gather(self._parts, rows)  # [C, parts], -1 where there is none
        itself = tf.pad(code_points[:, tf.newaxis], [[0, 0], [0, parts.shape[1] - 1]], constant_values=-1)
        return present(tf.where((rows > 0)[:, tf.newaxis], parts, itself), owners)


def present(parts: tf.Tensor, owners: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Code points [C, parts], -1 where there is none, and owners [C] -> those that are there, in a row."""
    is_part = parts >= 0
    counts = tf.reduce_sum(tf.cast(is_part, tf.int32), axis=1)
    return tf.boolean_mask(parts, is_part), tf.repeat(owners, counts)


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


def members_of(characters: Iterable[str]) -> np.ndarray:
    """bool [0x110000]: true at `characters`."""
    found = np.zeros(NUM_CODE_POINTS, bool)
    found[[ord(each) for each in characters]] = True
    return found


def letter_variants(letter: str) -> np.ndarray:
    """The code points that `letter` stands for where case is ignored: "s" has "S" and "ſ"."""
    letters = _letters_like("stmdrevl")
    return letters[matching(f"(?i:{letter})", letters)]


@functools.cache
def _letters_like(letters: str) -> np.ndarray:
    cased = np.flatnonzero(members(r"[\p{L}\p{M}]"))
    return cased[matching(f"(?i:[{letters}])", cased)]
