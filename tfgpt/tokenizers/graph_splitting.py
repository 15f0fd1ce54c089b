"""The pre-tokenizers' regular expressions as arithmetic on arrays: where pieces begin, for all texts at once.

RE2, TensorFlow's engine, has no lookahead and its own idea of letters. Here a character's classes come from
the library (`graph_characters`), and rules compare neighbours. C characters of S texts lie in a row.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf
from tokenizers import pre_tokenizers

from tfgpt.tokenizers.graph_characters import NUM_CODE_POINTS, CodePointTable, letter_variants, members
from tfgpt.tokenizers.graph_plan import Splitting

LETTER, NUMBER, SPACE, OTHER = 1, 2, 4, 8
# Of o200k: what may begin a word, what may end one, and what may follow punctuation.
UPPER, LOWER, NEWLINE, TRAILING = 16, 32, 64, 128
APOSTROPHE, BLANK = ord("'"), ord(" ")
SINGLE_LETTERS, PAIRS = "stmd", ("re", "ve", "ll")


@dataclasses.dataclass(frozen=True)
class Characters:
    """All texts in a row.

    Fields:
        code_points: int32 [C].
        classes: uint8 [C], bits as above.
        boundary: bool [C + 1], where a text begins; the end counts as one.
    """

    code_points: tf.Tensor
    classes: tf.Tensor
    boundary: tf.Tensor

    @property
    def first(self) -> tf.Tensor:  # [C]
        return self.boundary[:-1]

    @property
    def last(self) -> tf.Tensor:  # [C]
        return self.boundary[1:]


class Splitter:
    """Cuts texts into the pieces that a pre-tokenizer makes of them."""

    def __init__(self, splitting: Splitting):
        make_classes, self._starts = _RULES[splitting]
        self._classes = CodePointTable(make_classes())
        self._spaces_are_pieces = splitting is not Splitting.BERT
        ignore_case = splitting is Splitting.O200K
        self._contractions = CodePointTable(_contraction_letters(ignore_case))

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Strings [S] -> pieces, string [S, (pieces)]. What is no UTF-8 becomes U+FFFD, as in Python."""
        decoded = tf.strings.unicode_decode(texts, "UTF-8")  # [S, (characters)]
        code_points, splits = decoded.values, decoded.row_splits
        counts = tf.scatter_nd(
            splits[:, tf.newaxis], tf.ones_like(splits), [tf.size(code_points, tf.int64) + 1]
        )
        characters = Characters(code_points, self._classes(code_points), counts > 0)
        contractions = _contraction_lengths(characters, self._contractions(code_points))
        starts = self._starts(characters, contractions)  # [C]
        places = tf.where(starts)[:, 0]
        piece_splits = tf.concat([places, tf.size(code_points, tf.int64)[tf.newaxis]], axis=0)
        pieces = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_splits(code_points, piece_splits, validate=False), "UTF-8"
        )
        # A text begins with a piece, so the pieces before it are those that begin before it.
        text_splits = tf.searchsorted(places, splits, out_type=tf.int64)
        rows = tf.RaggedTensor.from_row_splits(pieces, text_splits, validate=False)
        if self._spaces_are_pieces:
            return rows
        is_kept = tf.gather(characters.classes, places) != SPACE
        return tf.ragged.boolean_mask(rows, rows.with_values(is_kept))


def _gpt2_classes() -> np.ndarray:
    letter, number, space = (members(pattern) for pattern in (r"\p{L}", r"\p{N}", r"\s"))
    classes = letter * LETTER + number * NUMBER + space * SPACE
    return np.where(classes == 0, OTHER, classes).astype(np.uint8)


def _o200k_classes() -> np.ndarray:
    return (
        _gpt2_classes()
        + members(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]") * np.uint8(UPPER)
        + members(r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]") * np.uint8(LOWER)
        + _those("\r\n") * np.uint8(NEWLINE)
        + _those("\r\n/") * np.uint8(TRAILING)
    )


def _those(characters: str) -> np.ndarray:
    return np.isin(np.arange(NUM_CODE_POINTS), [ord(character) for character in characters])


def _contraction_letters(ignore_case: bool) -> np.ndarray:
    """uint8 [0x110000]: 1 for what alone makes a contraction, then "r", "e", "v" and "l" as 2 to 5."""
    letters = np.zeros(NUM_CODE_POINTS, np.uint8)
    for number, group in enumerate((SINGLE_LETTERS, "r", "e", "v", "l"), start=1):
        for letter in group:
            letters[letter_variants(letter) if ignore_case else ord(letter)] = number
    return letters


def _contraction_lengths(characters: Characters, letters: tf.Tensor) -> tf.Tensor:
    """int32 [C]: 2 or 3 at an apostrophe that 's, 't, 'm, 'd, 're, 've or 'll begins with, else 0."""
    last = characters.last
    one = tf.where(last, tf.zeros_like(letters), _after(letters))
    two = tf.where(last | _after(last), tf.zeros_like(letters), _after(letters, 2))
    pair = ((one == 2) | (one == 4)) & (two == 3) | (one == 5) & (two == 5)
    lengths = tf.where(one == 1, 2, tf.where(pair, 3, 0))
    return tf.where(characters.code_points == APOSTROPHE, lengths, 0)


def _gpt2_starts(characters: Characters, contractions: tf.Tensor) -> tf.Tensor:
    """bool [C]: 's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

    Letters, numbers and others are cut into runs of one class, to which a blank before them belongs. An
    apostrophe that begins its piece can be a contraction. Of the spaces before something else, the last
    stands apart: as a blank it belongs to what comes, otherwise it is a piece.
    """
    classes, first, last = characters.classes, characters.first, characters.last
    before = tf.where(first, tf.zeros_like(classes), _before(classes))
    after = tf.where(last, tf.zeros_like(classes), _after(classes))
    after_blank = _before(characters.code_points == BLANK) & ~first
    contractions = tf.where((before == OTHER) | after_blank, 0, contractions)
    within = (_before(contractions) > 0) | (_before(contractions, 2) == 3)
    ends = (_before(contractions, 2) == 2) | (_before(contractions, 3) == 3)
    run_starts = ((classes != before) & ~after_blank & ~within) | ends
    last_space = (after != SPACE) & (after != 0)
    return first | tf.where(classes == SPACE, (before != SPACE) | last_space, run_starts)


def _o200k_starts(characters: Characters, contractions: tf.Tensor) -> tf.Tensor:
    """bool [C]: for each character where a piece would end that began there, then from piece to piece."""
    ends = _o200k_ends(characters, contractions)  # [C]
    classes, first = characters.classes, characters.first
    before = _before(classes)
    # Pieces with numbers have nothing else, and after a letter come letters, marks or a contraction; so a
    # piece certainly begins where that is broken, and the walks from all these places go on side by side.
    number_edge = _has(classes, NUMBER) != _has(before, NUMBER)
    continues = _has(classes, UPPER | LOWER) | (characters.code_points == APOSTROPHE)
    certain = first | number_edge | (_has(before, LETTER) & ~continues)  # [C]
    reached = tf.TensorArray(tf.int32, 1, dynamic_size=True, infer_shape=False, element_shape=[None])
    frontier = tf.cast(tf.where(certain)[:, 0], tf.int32)
    certain = tf.concat([certain, [True]], axis=0)  # [C + 1]

    def step(number, frontier, reached):
        reached = reached.write(number, frontier)
        following = tf.gather(ends, frontier)
        return number + 1, tf.boolean_mask(following, ~tf.gather(certain, following)), reached

    _, _, reached = tf.while_loop(
        lambda number, frontier, _: (number == 0) | (tf.size(frontier) > 0),
        step,
        (0, frontier, reached),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None]), None),
    )
    places = reached.concat()
    return tf.scatter_nd(places[:, tf.newaxis], tf.ones_like(places), tf.shape(classes)) > 0


def _o200k_ends(characters: Characters, contractions: tf.Tensor) -> tf.Tensor:
    """int32 [C]: where the piece ends that begins at a character; the alternatives in their order."""
    boundary = characters.boundary
    classes = tf.concat([characters.classes, tf.zeros_like(characters.classes[:1])], axis=0)[
        : tf.size(boundary)
    ]
    places = tf.range(tf.size(boundary))  # [C + 1]
    contractions = tf.concat([contractions, [0]], axis=0)
    newline, other = _has(classes, NEWLINE), _has(classes, OTHER)
    number_end = _run_ends(_has(classes, NUMBER), boundary)
    other_end = _run_ends(other, boundary)
    other_end = _from(other_end, _run_ends(_has(classes, TRAILING), boundary), boundary)
    space_end = _run_ends(_has(classes, SPACE), boundary)

    mixed, upper = _word_ends(classes, boundary)  # [C + 1], 0 where there is no word
    # A word may have one character before it, tried first in either alternative.
    prefix = ~_has(classes, LETTER | NUMBER) & ~newline & ~_after(boundary)
    word = tf.zeros_like(places)
    for ends in (upper, mixed):  # the last one wins, so from the last alternative to the first
        prefixed = tf.where(prefix, _after(ends), 0)
        word = tf.where(prefixed > 0, prefixed, tf.where(ends > 0, ends, word))
    suffix = tf.where(tf.gather(boundary, word), 0, tf.gather(contractions, word))

    blank = tf.concat([characters.code_points == BLANK, [False]], axis=0) & ~_after(boundary)
    punctuation = tf.where(blank & _after(other), _after(other_end), tf.where(other, other_end, 0))
    last_newline = _last_before(newline, space_end) + 1
    # All spaces at the end of a text; before something else all but the last, unless it is the only one.
    spared = ~tf.gather(boundary, space_end) & (space_end - places > 1)
    spaces = tf.where(last_newline > places, last_newline, space_end - tf.cast(spared, tf.int32))

    end = tf.where(punctuation > 0, punctuation, spaces)
    end = tf.where(_has(classes, NUMBER), tf.minimum(places + 3, number_end), end)
    return tf.where(word > 0, word + suffix, end)[:-1]


def _word_ends(classes: tf.Tensor, boundary: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """int32 [C + 1] twice: the ends of U*W+ and of U+W*, from every place; 0 where there is none.

    U* takes all it can; if W does not go on there, it gives back as little as leaves one character to W+.
    """
    places = tf.range(tf.size(boundary))
    lower = _has(classes, LOWER)
    upper_end = _run_ends(_has(classes, UPPER), boundary)
    lower_end = _run_ends(lower, boundary)
    goes_on = tf.gather(lower, upper_end) & ((upper_end == places) | ~tf.gather(boundary, upper_end))
    given_back = _last_before(lower, upper_end) + 1
    mixed = tf.where(given_back > places, given_back, 0)
    mixed = tf.where(goes_on, tf.gather(lower_end, upper_end), mixed)
    return mixed, tf.where(upper_end > places, upper_end, 0)


@functools.cache
def _bert_classes() -> np.ndarray:
    """Read off the library: between two letters, a character is cut off, dropped or part of their word."""
    code_points = np.r_[0:0xD800, 0xE000:0x40000, 0xE0000:0xF0000]  # As in `class_runs`.
    text = "a" + "a".join(map(chr, code_points)) + "a"
    within = np.full(len(text), SPACE, np.uint8)
    for _, (first, last) in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text):
        within[first:last] = OTHER if last - first == 1 else LETTER
    classes = np.full(NUM_CODE_POINTS, LETTER, np.uint8)
    classes[code_points] = within[1::2]
    return classes


def _bert_starts(characters: Characters, contractions: tf.Tensor) -> tf.Tensor:
    """bool [C]: runs of white space, and of what is neither that nor punctuation; each punctuation alone."""
    del contractions
    classes = characters.classes
    return characters.first | (classes != _before(classes)) | (classes == OTHER)


_RULES = {
    Splitting.GPT2: (_gpt2_classes, _gpt2_starts),
    Splitting.O200K: (_o200k_classes, _o200k_starts),
    Splitting.BERT: (_bert_classes, _bert_starts),
}


def _has(classes: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.bitwise_and(classes, tf.constant(bits, tf.uint8)) > 0


def _run_ends(inside: tf.Tensor, boundary: tf.Tensor) -> tf.Tensor:
    """int32 [C + 1]: where the run of a place ends, at most its text; outside of runs the place itself."""
    stops = ~inside | boundary
    places = tf.cast(tf.where(stops)[:, 0], tf.int32)
    following = tf.cumsum(tf.cast(stops, tf.int32))
    # The last place is a boundary and in no run: what is gathered for it does not matter.
    ends = tf.gather(places, tf.minimum(following, tf.size(places) - 1))
    return tf.where(inside, ends, tf.range(tf.size(boundary)))


def _from(ends: tf.Tensor, run_ends: tf.Tensor, boundary: tf.Tensor) -> tf.Tensor:
    """`ends`, moved on by the run that begins there, unless a text ends there."""
    return tf.where(tf.gather(boundary, ends), ends, tf.gather(run_ends, ends))


def _last_before(inside: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """int32 [C + 1]: the last place before `ends` that is `inside`; -1 where there is none."""
    places = tf.concat([[-1], tf.cast(tf.where(inside)[:, 0], tf.int32)], axis=0)
    return tf.gather(places, tf.gather(tf.cumsum(tf.cast(inside, tf.int32), exclusive=True), ends))


def _before(values: tf.Tensor, distance: int = 1) -> tf.Tensor:
    """The value `distance` places before; zero or False before the first."""
    return tf.pad(values, [[distance, 0]])[:-distance]


def _after(values: tf.Tensor, distance: int = 1) -> tf.Tensor:
    """The value `distance` places after; zero or False after the last."""
    return tf.pad(values, [[0, distance]])[distance:]
