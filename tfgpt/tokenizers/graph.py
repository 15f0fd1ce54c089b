"""A tokenizer within TensorFlow's graph, for tf.data and for SavedModel; its ids are the fast tokenizer's.

    text [N] -> added tokens -> (normalizer) -> pieces -> merges -> ids [N, (tokens)]

Only operators of TensorFlow itself and constants, no lookup table and no Python: a SavedModel of it needs
`import tensorflow` and nothing else. That goes for the normalizers, too: NFC of GPT-NeoX (`graph_composing`)
and BERT's of GPT-1 (`graph_cleaning`) are made of these operators.

Covered are byte-level BPE with GPT-2's regular expression (GPT-2, GPT-3, GPT-Neo, GPT-J, GPT-NeoX) or
o200k's (gpt-oss), with or without `add_prefix_space`; GPT-1's BPE with ends of words after BERT's
pre-tokenizer; either with `ignore_merges`, added tokens, NFC or BERT's normalizer, or without them; and
characters. Not covered, and refused by name: other pre-tokenizers and normalizers, and added tokens with
lstrip, rstrip or single_word. Time grows with the longest piece that is no token, which in ordinary text is a
word.
"""

import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfgpt.paths import user_path
from tfgpt.replacing import replacing_directory
from tfgpt.tokenizers.base import Tokenizer
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer
from tfgpt.tokenizers.end_of_word import EndOfWordTokenizer
from tfgpt.tokenizers.graph_added_tokens import AddedTokens, valid_utf8
from tfgpt.tokenizers.graph_characters import NUM_CODE_POINTS, CodePointTable
from tfgpt.tokenizers.graph_cleaning import Cleaner
from tfgpt.tokenizers.graph_composing import Composer
from tfgpt.tokenizers.graph_merging import Merger
from tfgpt.tokenizers.graph_plan import GraphPlan, Splitting, read_plan, refusal
from tfgpt.tokenizers.graph_splitting import Splitter
from tfgpt.tokenizers.graph_vocabulary import byte_merger, character_merger
from tfgpt.tokenizers.loading import load_tokenizer

TEXTS = tf.TensorSpec([None], tf.string, "texts")
SCALAR = tf.TensorSpec([], tf.int32)
RAGGED_IDS = tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1)


class GraphTokenizer(tf.Module):
    """Text to ids and back, in graphs.

        tokenizer = GraphTokenizer.from_pretrained(directory)
        dataset = tf.data.TextLineDataset(path).batch(256).map(tokenizer.encode)
        tokenizer.save("tokenizer_model")
        tf.saved_model.load("tokenizer_model").encode(tf.constant(["text"]))

    Functions, each traced once:
        encode: string [N] -> int32 [N, (tokens)], ragged.
        encode_one: string [] -> int32 [tokens].
        encode_padded: string [N], length, padding id -> int32 [N, T] and mask, bool [N, T].
        decode: int32 [N, (tokens)], ragged -> string [N].

    Bytes that are no UTF-8 are encoded as U+FFFD, one for each sequence that Python's errors="replace" takes
    for one.
    """

    def __init__(
        self, encoder, token_bytes: list[bytes | None], last_bytes: list[bytes | None] | None = None
    ):
        super().__init__(name="tokenizer")
        self._encoder = encoder
        self.vocabulary_size = len(token_bytes)
        self._token_bytes = _strings(token_bytes)
        self._last_bytes = None if last_bytes is None else _strings(last_bytes)  # of a text's last token
        # An unused id leads outside of the table, where the lookup fails.
        unused = [each is None for each in token_bytes]
        self._places = tf.constant(np.where(unused, -1, np.arange(len(token_bytes))), tf.int32)
        # As decorated methods they would hold this object weakly, and `map(GraphTokenizer(...).encode)` fail.
        self.encode = _function(self._encode, TEXTS)
        self.encode_one = _function(self._encode_one, tf.TensorSpec([], tf.string, "text"))
        self.encode_padded = _function(self._encode_padded, TEXTS, SCALAR, SCALAR)
        self.decode = _function(self._decode, RAGGED_IDS)

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer, allow_special: bool = True) -> "GraphTokenizer":
        """The graph that gives `tokenizer.encode(text, allow_special)`.

        Raises:
            InputError: a tokenizer that the graph cannot follow exactly; the line says in what.
        """
        if isinstance(tokenizer, CharacterTokenizer):
            encoder = CharacterEncoder(tokenizer)
        elif isinstance(tokenizer, BytePairTokenizer | EndOfWordTokenizer):
            plan = read_plan(tokenizer.backend, allow_special)
            of_bytes = isinstance(tokenizer, BytePairTokenizer)
            if of_bytes == (plan.splitting is Splitting.BERT):
                raise refusal(f"a {type(tokenizer).__name__} cut by {plan.splitting.value}", "the other kind")
            make = byte_merger if of_bytes else character_merger
            encoder = BytePairEncoder(plan, make(tokenizer.backend, plan))
        else:
            expected = "a BytePairTokenizer, EndOfWordTokenizer or CharacterTokenizer"
            raise refusal(f"the class {type(tokenizer).__name__}", expected)
        last_bytes = tokenizer.last_token_bytes if isinstance(tokenizer, EndOfWordTokenizer) else None
        return cls(encoder, list(tokenizer.token_bytes), last_bytes)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike, allow_special: bool = True) -> "GraphTokenizer":
        """`from_tokenizer` of the tokenizer saved in `directory`."""
        return cls.from_tokenizer(load_tokenizer(directory), allow_special)

    def _encode(self, texts):
        """string [N] -> int32 [N, (tokens)], ragged."""
        return self._encoder(texts)

    def _encode_one(self, text):
        """string [] -> int32 [tokens]."""
        return self._encoder(text[tf.newaxis]).values

    def _encode_padded(self, texts, length, padding_id):
        """string [N] -> token ids, int32 [N, T], and mask, bool [N, T], true at tokens.

        Args:
            texts: the texts.
            length: T, or -1 for that of the longest row; longer rows lose their end, shorter ones are
                padded on the right.
            padding_id: what stands where no token is.
        """
        ids = self._encoder(texts)
        length = tf.where(length < 0, tf.cast(ids.bounding_shape(1), tf.int32), length)
        ids = ids[:, :length]
        dense = ids.to_tensor(padding_id, shape=[None, None])
        dense = tf.pad(dense, [[0, 0], [0, length - tf.shape(dense)[1]]], constant_values=padding_id)
        return dense, tf.sequence_mask(ids.row_lengths(), length)

    def _decode(self, token_ids):
        """int32 [N, (tokens)] -> the texts' bytes, string [N].

        They are exact, so not always UTF-8: `Tokenizer.decode` gives the same with `errors="replace"`. An id
        outside of the vocabulary raises InvalidArgumentError.
        """
        places = tf.gather(self._places, token_ids.values)
        pieces = tf.gather(self._token_bytes, places)
        if self._last_bytes is not None:
            follows = token_ids.value_rowids()
            is_last = follows != tf.pad(follows[1:], [[0, 1]], constant_values=-1)[: tf.size(follows)]
            pieces = tf.where(is_last, tf.gather(self._last_bytes, places), pieces)
        return tf.strings.reduce_join(token_ids.with_values(pieces), axis=-1)

    def save(self, directory: str | os.PathLike) -> None:
        """Writes a SavedModel with `encode`, `encode_one`, `encode_padded` and `decode`."""
        with replacing_directory(user_path(directory)) as temporary:
            tf.saved_model.save(self, str(temporary))


def _function(method, *signature) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(method, input_signature=signature, autograph=False)


def _strings(values: list[bytes | None]) -> tf.Tensor:
    return tf.constant([b"" if each is None else each for each in values])


class BytePairEncoder:
    """The graph of BPE, of bytes or of characters."""

    def __init__(self, plan: GraphPlan, merge: Merger):
        self._plan = plan
        self._stages = [AddedTokens(ids) if ids else None for ids in plan.added_tokens]
        self._split = Splitter(plan.splitting)
        self._merge = merge
        self._normalize = _normalizer(plan.normalizer)

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """string [N] -> int32 [N, (tokens)]."""
        before, after = self._stages
        texts = valid_utf8(texts)
        rows = None  # of texts to parts [N, (parts)]
        ids = -tf.ones_like(texts, tf.int32)  # [S], of a part that is an added token
        if before:
            parts, ids = before(texts, ids)
            rows, texts, ids = parts.row_splits, parts.values, ids.values
        if self._normalize:
            texts = tf.where(ids < 0, self._normalize(texts), texts)
        if after:
            parts, ids = after(texts, ids)
            rows = parts.row_splits if rows is None else tf.gather(parts.row_splits, rows)
            texts, ids = parts.values, ids.values
        tokens = self._encode_parts(texts, ids)  # [S, (tokens)]
        if rows is None:
            return tokens
        return tf.RaggedTensor.from_row_splits(
            tokens.values, tf.gather(tokens.row_splits, rows), validate=False
        )

    def _encode_parts(self, texts: tf.Tensor, ids: tf.Tensor) -> tf.RaggedTensor:
        """Texts [S], and ids [S] of those that are added tokens, else -1 -> int32 [S, (tokens)]."""
        is_text = ids < 0
        pieces = self._split(self._with_prefix(tf.where(is_text, texts, "")))  # [S, (pieces)]
        tokens = self._merge(pieces.values)  # [P, (tokens)]
        splits = tf.gather(tokens.row_splits, pieces.row_splits)
        tokens = tf.RaggedTensor.from_row_splits(tokens.values, splits, validate=False)
        if self._stages == [None, None]:
            return tokens
        added = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(ids, ~is_text), tf.cast(~is_text, tf.int64), validate=False
        )
        return tf.concat([tokens, added], axis=1)  # a part has either

    def _with_prefix(self, texts: tf.Tensor) -> tf.Tensor:
        if not self._plan.add_prefix_space:
            return texts
        complete = (texts == "") | (tf.strings.substr(texts, 0, 1) == " ")
        return tf.where(complete, texts, tf.strings.join([" ", texts]))


def _normalizer(description: dict | None) -> Callable[[tf.Tensor], tf.Tensor] | None:
    if description is None:
        return None
    return Composer() if description["type"] == "NFC" else Cleaner(description)


class CharacterEncoder:
    """The graph of one token per character; a character that is not in the alphabet raises."""

    def __init__(self, tokenizer: CharacterTokenizer):
        ids = np.full(NUM_CODE_POINTS, -1, np.int32)
        for token_id, character in enumerate(tokenizer.token_bytes):
            if character is not None:
                ids[ord(character.decode())] = token_id
        self._ids = CodePointTable(ids)
        self._message = (
            "found a character outside of the alphabet, expected only the "
            f"{tokenizer.vocabulary_size} characters of the training text"
        )

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """string [N] -> int32 [N, (tokens)]."""
        code_points = tf.strings.unicode_decode(texts, "UTF-8")
        ids = self._ids(code_points.values)
        with tf.control_dependencies([tf.debugging.assert_non_negative(ids, self._message)]):
            return code_points.with_values(tf.identity(ids))
