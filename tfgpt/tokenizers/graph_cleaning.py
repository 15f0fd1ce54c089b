"""BERT's normalizer in the graph, which GPT-1's tokenizer begins with; for all texts at once.

    cleaned     control characters go, white space becomes a blank
    spaced      a blank on either side of a Chinese character
    stripped    decomposed, marks ordered, those without width go
    lower case

What each step makes of a character is read off the `tokenizers` library, whose version of Unicode counts. The
reference is its normalizers/bert.rs.
"""

import functools
import itertools

import tensorflow as tf
from tokenizers import normalizers

from tfgpt.tokenizers.graph_characters import (
    NUM_CODE_POINTS,
    CodePointMap,
    CodePointTable,
    members_of,
    present,
)
from tfgpt.tokenizers.graph_composing import normalized_apart, ordered, read_composition
from tfgpt.tokenizers.graph_plan import refusal

# No step changes a digit, and none makes one.
SEPARATOR = "0"
BLANK = ord(" ")


class Cleaner:
    """`cleaner(texts)`: valid UTF-8 [S] -> as BERT's normalizer leaves it, string [S].

    Args:
        options: `clean_text`, `handle_chinese_chars`, `strip_accents` (`None`: as `lowercase`) and
            `lowercase`, as a tokenizer.json states them.
    """

    def __init__(self, options: dict):
        lowercase, strips = options["lowercase"], options["strip_accents"]
        strips = lowercase if strips is None else strips
        self._first = CodePointMap(_replacements(decompose=strips, clean_text=options["clean_text"]))
        self._ranks = CodePointTable(read_composition().ranks) if strips else None
        self._last = CodePointMap(_replacements(strip_accents=strips, lowercase=lowercase))
        self._is_chinese = None
        if options["handle_chinese_chars"]:
            self._is_chinese = CodePointTable(members_of(_replacements(handle_chinese_chars=True)))

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        decoded = tf.strings.unicode_decode(texts, "UTF-8")
        code_points, owners = decoded.values, decoded.value_rowids()
        if self._is_chinese:
            blanks = tf.where(self._is_chinese(code_points), BLANK, -1)
            code_points, owners = present(tf.stack([blanks, code_points, blanks], axis=1), owners)
        code_points, owners = self._first(code_points, owners)
        if self._ranks:
            code_points, _ = ordered(code_points, owners, self._ranks)
        code_points, owners = self._last(code_points, owners)
        rows = tf.RaggedTensor.from_value_rowids(code_points, owners, decoded.nrows(), validate=False)
        return tf.strings.unicode_encode(rows, "UTF-8")


@functools.cache
def _replacements(decompose: bool = False, **options: bool) -> dict[str, str]:
    """What BERT's normalizer, with nothing but what is named, makes of each character that it changes.

    Args:
        decompose: normal form D after it.
    """
    steps = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
    normalizer = normalizers.BertNormalizer(**{**steps, **options})
    if decompose:
        normalizer = normalizers.Sequence([normalizer, normalizers.NFD()])
    text = _every_character()
    found = normalized_apart(normalizer, text, SEPARATOR)
    if len(found) != len(text):
        raise refusal("a normalizer that changes digits", "BERT's")
    return {each: parts for each, parts in zip(text, found, strict=True) if parts != each}


@functools.cache
def _every_character() -> str:
    """All of Unicode but the separator: planes without characters count, those of no use are cleaned away."""
    ranges = (range(0xD800), range(0xE000, NUM_CODE_POINTS))
    return "".join(map(chr, itertools.chain(*ranges))).replace(SEPARATOR, "")
