"""Added tokens in the graph: found leftmost and longest first, as the `tokenizers` library does."""

import tensorflow as tf

from tfgpt.tokenizers.graph_merging import PieceIds

# In no UTF-8 text, so it can stand around what was found.
MARK = b"\xff"


class AddedTokens:
    """Cuts texts at the added tokens, in one stage: those that are searched for together."""

    def __init__(self, ids: dict[str, int]):
        # Of several alternatives RE2 takes the first that fits.
        contents = sorted(ids, key=len, reverse=True)
        self._pattern = "(" + "|".join(map(_quote, contents)) + ")"
        self._ids = PieceIds({content.encode(): token_id for content, token_id in ids.items()})

    def __call__(self, texts: tf.Tensor, token_ids: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """Valid UTF-8 [S] -> its parts, string [S, (parts)], with their ids, -1 where a part is text.

        token_ids: int32 [S], -1 where a row is text; rows that are tokens already stay as they are.
        """
        marked = tf.strings.regex_replace(texts, self._pattern, MARK + rb"\1" + MARK)
        parts = tf.strings.split(tf.where(token_ids < 0, marked, texts), MARK)
        # Text and tokens take turns, beginning with a text that may be empty.
        rows = parts.value_rowids()
        place = tf.range(tf.size(parts.values, tf.int64)) - tf.gather(parts.row_splits, rows)
        ids = tf.where(place % 2 == 1, self._ids(parts.values), tf.gather(token_ids, rows))
        return parts, parts.with_values(ids)


def valid_utf8(texts: tf.Tensor) -> tf.Tensor:
    """`texts` [N] with U+FFFD for what is no UTF-8."""
    return tf.cond(
        tf.reduce_all(tf.strings.regex_full_match(texts, "(?s).*")),
        lambda: texts,
        lambda: tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8"),
    )


def _quote(content: str) -> str:
    """`content` as a pattern of RE2 that matches it alone."""
    return "".join(c if c.isalnum() or ord(c) >= 128 else rf"\x{{{ord(c):x}}}" for c in content)
