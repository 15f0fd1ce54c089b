"""Unicode's normal form C in the graph: Unicode Standard Annex 15, definition D117, for all texts at once.

    é e ◌̣ ◌́  ->  e ◌́ e ◌̣ ◌́   decomposed      each character by a table
             ->  e ◌́ e ◌̣ ◌́   ordered         marks of one character by their class
             ->  é ẹ́           composed        in rounds: each character takes the first mark that it can take

The tables are read off the `tokenizers` library, whose version of Unicode counts, and not Python's.
"""

import functools
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tokenizers import normalizers

from tfgpt.tokenizers.graph_characters import NUM_CODE_POINTS, CodePointMap, CodePointTable
from tfgpt.tokenizers.graph_plan import refusal

# A character of no class that takes part in nothing: what stands on its two sides is normalized apart.
SEPARATOR = "\0"
# Combining characters of the lowest and the highest class (1 and 240).
LOWEST, HIGHEST = "\u0334", "\u0345"


class Composition(NamedTuple):
    """What normalization needs to know of the library's Unicode.

    `decompositions`: character -> its full canonical decomposition. `ranks`: uint8 [0x110000], 0 for
    starters, else the place of the combining class among all. `pairs`: (first, second) -> composite.
    """

    decompositions: dict[str, str]
    ranks: np.ndarray
    pairs: dict[tuple[str, str], str]


class Composer:
    """`composer(texts)`: valid UTF-8 [S] -> the same in normal form C, string [S]."""

    def __init__(self):
        facts = read_composition()
        # Of characters that are none of these, a text is in the normal form already.
        changing = (facts.ranks > 0).astype(np.uint8)
        composites = set(facts.pairs.values())
        changing[[ord(each) for each in facts.decompositions if each not in composites]] = 1
        changing[[ord(second) for _, second in facts.pairs]] = 1
        keys = np.array([ord(first) << 32 | ord(second) for first, second in facts.pairs], np.int64)
        order = np.argsort(keys)
        composed = np.array([ord(each) for each in facts.pairs.values()], np.int32)
        self._changing, self._ranks = CodePointTable(changing), CodePointTable(facts.ranks)
        self._decomposed = CodePointMap(facts.decompositions)
        self._keys, self._composed = tf.constant(keys[order]), tf.constant(composed[order])

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        decoded = tf.strings.unicode_decode(texts, "UTF-8")
        changes = tf.reduce_any(self._changing(decoded.values) > 0)
        return tf.cond(changes, lambda: self._normalized(decoded), lambda: texts)

    def _normalized(self, decoded: tf.RaggedTensor) -> tf.Tensor:
        code_points, owners = self._decomposed(decoded.values, decoded.value_rowids())
        code_points, ranks = ordered(code_points, owners, self._ranks)

        def step(going, code_points, owners, ranks):
            code_points, left = self._composed_once(code_points, owners, ranks)
            kept = (tf.boolean_mask(each, left) for each in (code_points, owners, ranks))
            return tf.reduce_any(~left), *kept

        row = tf.TensorShape([None])
        _, code_points, owners, _ = tf.while_loop(
            lambda going, *_: going,
            step,
            (tf.constant(True), code_points, owners, ranks),
            shape_invariants=(tf.TensorShape([]), row, row, row),
        )
        rows = tf.RaggedTensor.from_value_rowids(code_points, owners, decoded.nrows(), validate=False)
        return tf.strings.unicode_encode(rows, "UTF-8")

    def _composed_once(self, code_points, owners, ranks) -> tuple[tf.Tensor, tf.Tensor]:
        """One round: each starter with the first character that it can take; and which ones are left."""
        size = tf.size(code_points)
        places, is_starter = tf.range(size), tf.cast(ranks == 0, tf.int32)
        number = tf.cumsum(is_starter, exclusive=True)  # of the starters before
        starters = tf.concat([[-1], tf.cast(tf.where(ranks == 0)[:, 0], tf.int32)], axis=0)
        last = tf.gather(starters, number)  # the starter before, -1 where there is none
        first = tf.maximum(last, 0)
        # Blocked: something of the same or a higher class stands between (D115).
        reaches = (last == places - 1) | (_before(ranks, 0) < ranks)
        keys = tf.cast(tf.gather(code_points, first), tf.int64) * 2**32 + tf.cast(code_points, tf.int64)
        found = tf.minimum(tf.searchsorted(self._keys, keys), tf.size(self._keys) - 1)
        fits = (tf.gather(self._keys, found) == keys) & reaches & (last >= 0)
        fits &= tf.gather(owners, first) == owners
        taken = tf.where(fits, places, size)
        taken = fits & (places == tf.gather(tf.math.segment_min(taken, number), number))
        targets, composites = tf.boolean_mask(last, taken), tf.boolean_mask(found, taken)
        code_points = tf.tensor_scatter_nd_update(
            code_points, targets[:, tf.newaxis], tf.gather(self._composed, composites)
        )
        return code_points, ~taken


def ordered(code_points: tf.Tensor, owners: tf.Tensor, table: CodePointTable) -> tuple[tf.Tensor, tf.Tensor]:
    """The marks after each starter by their rank, those of one rank as they came; and all ranks, int64 [C].

    Unicode's canonical ordering (D109); `table` is of `Composition.ranks`.
    """
    ranks = tf.cast(table(code_points), tf.int64)
    size = tf.size(code_points, tf.int64)
    begins = (ranks == 0) | (owners != _before(owners, -1))
    segments = tf.cumsum(tf.cast(begins, tf.int64))
    places = tf.sort((segments * 256 + ranks) * size + tf.range(size)) % size
    return tf.gather(code_points, places), tf.gather(ranks, places)


def _before(values: tf.Tensor, first: int) -> tf.Tensor:
    """The value before each; `first` before the first."""
    return tf.pad(values, [[1, 0]], constant_values=first)[:-1]


@functools.cache
def read_composition() -> Composition:
    """The library's Unicode. Planes 4 to 13 have no characters, 15 and 16 none that anything is known of.

    Raises:
        InputError: rules of another kind than those of every version of Unicode until now.
    """
    characters = list(map(chr, np.r_[1:0xD800, 0xE000:0x40000, 0xE0000:0xF0000]))
    split = normalized_apart(normalizers.NFD(), characters)
    decompositions = {each: parts for each, parts in zip(characters, split, strict=True) if parts != each}
    ranks = _ranks([each for each in characters if each not in decompositions])
    return Composition(decompositions, ranks, _pairs(decompositions, ranks))


def _pairs(decompositions: dict[str, str], ranks: np.ndarray) -> dict[tuple[str, str], str]:
    compose = normalizers.NFC()
    composed = normalized_apart(compose, decompositions)
    # Others are excluded from composition: normal form C takes them apart.
    composites = [each for each, found in zip(decompositions, composed, strict=True) if found == each]
    firsts = normalized_apart(compose, [decompositions[each][:-1] for each in composites])
    pairs = {(first, decompositions[each][-1]): each for first, each in zip(firsts, composites, strict=True)}
    seconds = {second for _, second in pairs if ranks[ord(second)] == 0}
    # Rounds are right as long as what a starter takes does not itself take something.
    if any(len(first) != 1 or first in seconds or ranks[ord(first)] for first, _ in pairs):
        raise refusal("rules of composition that this graph does not know", "those of Unicode up to 17")
    return pairs


def _ranks(characters: list[str]) -> np.ndarray:
    """uint8 [0x110000]: combining classes as numbers from 1 on; two swap when the second one's is lower."""
    decompose = normalizers.NFD()
    lower = normalized_apart(decompose, [each + LOWEST for each in characters])
    higher = normalized_apart(decompose, [HIGHEST + each for each in characters])
    marks = [
        each
        for each, low, high in zip(characters, lower, higher, strict=True)
        if low == LOWEST + each != each + LOWEST or high == each + HIGHEST != HIGHEST + each
    ]
    # One mark of every class; Python's Unicode is only asked which these are.
    probes = sorted({unicodedata.combining(each): each for each in marks}.values())
    swapped = normalized_apart(decompose, [each + probe for each in marks for probe in probes])
    wanted = [probe + each for each in marks for probe in probes]
    same = [each == probe for each in marks for probe in probes]
    is_lower = np.array(
        [found == want and not equal for found, want, equal in zip(swapped, wanted, same, strict=True)]
    )
    ranks = np.zeros(NUM_CODE_POINTS, np.uint8)
    ranks[[ord(each) for each in marks]] = 1 + is_lower.reshape(len(marks), len(probes)).sum(axis=1)
    return ranks


def normalized_apart(normalizer, texts: Iterable[str], separator: str = SEPARATOR) -> list[str]:
    """What `normalizer` makes of each text, asked once for all of them.

    `separator`: a character that no text has or becomes, and that takes part in nothing.
    """
    return normalizer.normalize_str(separator.join(texts)).split(separator)
