"""Byte-pair merges for all pieces at once: Sennrich et al. 2016, algorithm 1, as `tokenizers` carries it out.

Each different piece is encoded once, and one that is a token needs no merges. The others are symbols in a
row; in each round every piece merges its pair of the lowest rank, wherever it has it, and leaves when it has
none.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfgpt.tokenizers.graph_plan import refusal

NO_MERGE = np.iinfo(np.int32).max


class PieceIds:
    """Exact lookup of strings without a table resource: a hash finds the candidate, comparison decides.

    `ids(pieces)`: string [P] -> int32 [P], -1 for a string that is not there.
    """

    def __init__(self, ids: dict[bytes, int]):
        pieces = np.array(list(ids) or [b""], object)
        hashes = _hashes(tf.constant(pieces)).numpy()
        order = np.argsort(hashes)
        if len(np.unique(hashes)) < len(hashes):
            raise refusal("two tokens of one 63-bit hash", "a hash of its own for every token")
        self._hashes = tf.constant(hashes[order])
        self._pieces = tf.constant(pieces[order])
        self._ids = tf.constant(np.array(list(ids.values()) or [-1], np.int32)[order])

    def __call__(self, pieces: tf.Tensor) -> tf.Tensor:
        places = tf.searchsorted(self._hashes, _hashes(pieces))
        places = tf.minimum(places, tf.size(self._hashes) - 1)
        return tf.where(tf.gather(self._pieces, places) == pieces, tf.gather(self._ids, places), -1)


def _hashes(pieces: tf.Tensor) -> tf.Tensor:
    # FarmHash's Fingerprint64, which never changes.
    return tf.strings.to_hash_bucket_fast(pieces, np.iinfo(np.int64).max)


Symbols = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class Merger:
    """Pieces to token ids.

    Args:
        whole: the pieces that are one token.
        symbols: pieces, string [P] -> what merging begins with: token ids, int32 [B], and the piece that each
            is of, int32 [B], in order.
        merges: (left id, right id) -> (rank, merged id).
    """

    def __init__(self, whole: dict[bytes, int], symbols: Symbols, merges: dict[tuple[int, int], tuple]):
        self._whole = PieceIds(whole)
        self._symbols = symbols
        pairs = np.array(list(merges) or [(0, 0)], np.int64)
        ranks, merged = np.array(list(merges.values()) or [(NO_MERGE, 0)], np.int32).T
        keys = pairs[:, 0] << 32 | pairs[:, 1]
        order = np.argsort(keys)
        self._keys = tf.constant(keys[order])
        self._ranks = tf.constant(ranks[order])
        self._merged = tf.constant(merged[order])
        self._in_order = _merges_are_in_order(pairs, ranks, merged)

    def __call__(self, pieces: tf.Tensor) -> tf.RaggedTensor:
        """string [P] -> int32 [P, (tokens)]."""
        different, numbers = tf.unique(pieces)
        whole_ids = self._whole(different)  # [D]
        is_whole = whole_ids >= 0
        whole = tf.RaggedTensor.from_tensor(
            tf.boolean_mask(whole_ids, is_whole)[:, tf.newaxis], row_splits_dtype=tf.int64
        )
        merged = self._merge(tf.boolean_mask(different, ~is_whole))
        rows = tf.concat([whole, merged], axis=0)  # [D, (tokens)], those that are whole first
        places = tf.concat([tf.where(is_whole)[:, 0], tf.where(~is_whole)[:, 0]], axis=0)
        row_of = tf.scatter_nd(
            places[:, tf.newaxis], tf.range(tf.size(places)), tf.shape(different, tf.int64)
        )
        return tf.gather(rows, tf.gather(row_of, numbers))

    def _merge(self, pieces: tf.Tensor) -> tf.RaggedTensor:
        """string [P] -> int32 [P, (tokens)], by merging alone."""
        symbols, owners = self._symbols(pieces)
        places = tf.range(tf.size(symbols))
        done = tf.TensorArray(tf.int64, 1, dynamic_size=True, infer_shape=False, element_shape=[None])

        def round_of_merges(number, symbols, owners, places, done):
            symbols, kept, finished = self._merge_lowest(symbols, owners)
            # Place and symbol in one number: what is done comes in any order.
            packed = tf.cast(places, tf.int64) * 2**32 + tf.cast(symbols, tf.int64)
            done = done.write(number, tf.boolean_mask(packed, finished))
            kept = tf.where(kept & ~finished)[:, 0]
            symbols, owners, places = (tf.gather(each, kept) for each in (symbols, owners, places))
            return number + 1, symbols, owners, places, done

        vector = tf.TensorShape([None])
        *_, done = tf.while_loop(
            lambda number, symbols, *_: (number == 0) | (tf.size(symbols) > 0),
            round_of_merges,
            (0, symbols, owners, places, done),
            shape_invariants=(tf.TensorShape([]), vector, vector, vector, None),
        )
        packed = tf.sort(done.concat())
        values = tf.cast(packed % 2**32, tf.int32)
        rows = tf.gather(owners, packed // 2**32)
        return tf.RaggedTensor.from_value_rowids(
            values, tf.cast(rows, tf.int64), tf.size(pieces, tf.int64), validate=False
        )

    def _merge_lowest(self, symbols: tf.Tensor, owners: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One round, [B] each: the symbols, which of them are left, and those of pieces without merges."""
        keys = tf.cast(symbols, tf.int64) * 2**32 + tf.cast(_next(symbols), tf.int64)
        found = tf.minimum(tf.searchsorted(self._keys, keys), tf.size(self._keys) - 1)
        is_pair = (tf.gather(self._keys, found) == keys) & (owners == _next(owners))
        ranks = tf.where(is_pair, tf.gather(self._ranks, found), NO_MERGE)
        lowest = tf.gather(tf.math.segment_min(ranks, owners), owners)
        finished = lowest == NO_MERGE
        chosen = (ranks == lowest) & ~finished
        chosen = _every_second(chosen) if self._in_order else _first_of(chosen, owners)
        symbols = tf.where(chosen, tf.gather(self._merged, found), symbols)
        return symbols, ~tf.pad(chosen, [[1, 0]])[:-1], finished


def _merges_are_in_order(pairs: np.ndarray, ranks: np.ndarray, merged: np.ndarray) -> bool:
    """Whether a merge never makes way for one of lower rank, so that all places of a pair may go at once.

    Always so where merges were learned in the order of their ranks; lists made by hand can differ.
    """
    last_made = np.full(max(pairs.max(), merged.max()) + 1, -1)
    np.maximum.at(last_made, merged, ranks)
    return bool((last_made[pairs].max(axis=1) < ranks).all())


def _next(values: tf.Tensor) -> tf.Tensor:
    """The value after each; -1 after the last."""
    return tf.pad(values[1:], [[0, 1]], constant_values=-1)[: tf.size(values)]


def _every_second(chosen: tf.Tensor) -> tf.Tensor:
    """Of pairs that overlap ("aaa" has "aa" twice) the first, third and so on, from left to right."""
    places = tf.range(tf.size(chosen))
    follows = tf.pad(chosen, [[1, 0]])[:-1]
    starts = chosen & ~follows

    def in_runs():
        run_places = tf.concat([[0], tf.boolean_mask(places, starts)], axis=0)
        offset = places - tf.gather(run_places, tf.cumsum(tf.cast(starts, tf.int32)))
        return chosen & (offset % 2 == 0)

    return tf.cond(tf.reduce_any(chosen & follows), in_runs, lambda: chosen)


def _first_of(chosen: tf.Tensor, owners: tf.Tensor) -> tf.Tensor:
    """The leftmost of each piece's pairs alone."""
    places = tf.where(chosen, tf.range(tf.size(chosen)), NO_MERGE)
    return chosen & (places == tf.gather(tf.math.segment_min(places, owners), owners))
