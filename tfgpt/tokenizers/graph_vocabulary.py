"""A vocabulary and its merges for the graph: of bytes, or of characters with ends of words."""

import json

import numpy as np
import tensorflow as tf
import tokenizers

from tfgpt.tokenizers.byte_pair import byte_characters
from tfgpt.tokenizers.graph_characters import NUM_CODE_POINTS, CodePointTable
from tfgpt.tokenizers.graph_merging import Merger
from tfgpt.tokenizers.graph_plan import GraphPlan, refusal
from tfgpt.tokenizers.vocabulary_files import merges_of


def byte_merger(backend: tokenizers.Tokenizer, plan: GraphPlan) -> Merger:
    """Of byte-level BPE: a piece is bytes, each of which has a token."""
    vocabulary = backend.get_vocab(with_added_tokens=False)
    characters = byte_characters()
    if missing := sum(character not in vocabulary for character in characters):
        raise refusal(f"a vocabulary that lacks {missing} of 256 bytes", "a complete byte-level vocabulary")
    byte_of = {character: byte for byte, character in enumerate(characters)}
    whole = {}
    for token, token_id in vocabulary.items():
        # A token that the merges do not arrive at is never made of text, unless they are ignored.
        is_whole = plan.ignore_merges or [each.id for each in backend.model.tokenize(token)] == [token_id]
        if is_whole and all(character in byte_of for character in token):
            whole[bytes(byte_of[character] for character in token)] = token_id
    return Merger(whole, ByteSymbols([vocabulary[character] for character in characters]), _merges(backend))


def character_merger(backend: tokenizers.Tokenizer, plan: GraphPlan) -> Merger:
    """Of BPE over characters, the last of which carries the end of the word."""
    vocabulary = backend.get_vocab(with_added_tokens=False)
    suffix = plan.end_of_word
    if plan.unknown_token is not None and plan.unknown_token not in vocabulary:
        raise refusal(f"the unknown token {plan.unknown_token!r} outside of its vocabulary", "it in there")
    whole = {}
    for piece in {text for token in vocabulary for text in (token, token.removesuffix(suffix)) if text}:
        found = backend.model.tokenize(piece)
        if len(found) == 1:
            whole[piece.encode()] = found[0].id
    symbols = CharacterSymbols(
        {token: token_id for token, token_id in vocabulary.items() if len(token) == 1},
        {
            token.removesuffix(suffix): token_id
            for token, token_id in vocabulary.items()
            if token.endswith(suffix) and len(token) == len(suffix) + 1
        },
        -1 if plan.unknown_token is None else vocabulary[plan.unknown_token],
    )
    return Merger(whole, symbols, _merges(backend))


class ByteSymbols:
    """The tokens of a piece's bytes; `byte_ids`: of each of the 256."""

    def __init__(self, byte_ids: list[int]):
        self._byte_ids = tf.constant(byte_ids, tf.int32)

    def __call__(self, pieces: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        text = tf.io.decode_raw(tf.strings.reduce_join(pieces), tf.uint8)  # [B]
        owners = tf.repeat(tf.range(tf.size(pieces)), tf.strings.length(pieces))
        return tf.gather(self._byte_ids, tf.cast(text, tf.int32)), owners


class CharacterSymbols:
    """The tokens of a piece's characters.

    Args:
        within, last: character -> token id, in a word and at its end.
        unknown: what a character without a token becomes; -1 for nothing.
    """

    def __init__(self, within: dict[str, int], last: dict[str, int], unknown: int):
        self._within, self._last = _table(within, unknown), _table(last, unknown)

    def __call__(self, pieces: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        decoded = tf.strings.unicode_decode(pieces, "UTF-8")
        owners = tf.cast(decoded.value_rowids(), tf.int32)
        is_last = owners != tf.pad(owners[1:], [[0, 1]], constant_values=-1)[: tf.size(owners)]
        symbols = tf.where(is_last, self._last(decoded.values), self._within(decoded.values))
        is_known = symbols >= 0
        return tf.boolean_mask(symbols, is_known), tf.boolean_mask(owners, is_known)


def _table(ids: dict[str, int], unknown: int) -> CodePointTable:
    values = np.full(NUM_CODE_POINTS, unknown, np.int32)
    values[[ord(character) for character in ids]] = list(ids.values())
    return CodePointTable(values)


def _merges(backend: tokenizers.Tokenizer) -> dict[tuple[int, int], tuple[int, int]]:
    """(left id, right id) -> (rank, merged id)."""
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return {
        (vocabulary[left], vocabulary[right]): (rank, vocabulary[left + right])
        for rank, (left, right) in enumerate(merges_of(json.loads(backend.to_str())["model"]))
    }
