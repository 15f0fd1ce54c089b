"""What a model must beat on the same bytes: a unigram model, a strong compressor. No TF."""

import lzma
import math
from dataclasses import dataclass

import numpy as np

from tfgpt.data.shards import TokenShards
from tfgpt.errors import InputError

LZMA_MAX_DICTIONARY = 3 * 2**29  # liblzma's limit, 1.5 GiB; the encoder takes some 11 times the dictionary


def unigram_bits_per_byte(train: TokenShards, validation: TokenShards) -> float:
    """Bits per byte of validation text under the tokens' frequencies in training, one added to each count.

    A model that has learned nothing but how often each token occurs; every token of `validation` is counted.

    Raises:
        InputError: shards made by different tokenizers.
    """
    if train.tokenizer_fingerprint != validation.tokenizer_fingerprint:
        raise InputError(
            f"found validation tokens of tokenizer {validation.tokenizer_fingerprint}, expected those of "
            f"{train.tokenizer_fingerprint} as in training; pack both with one tokenizer"
        )
    size = train.vocabulary_size
    train_counts = np.bincount(train.all_tokens(), minlength=size)  # [vocabulary]
    validation_counts = np.bincount(validation.all_tokens(), minlength=size)
    nats = np.log(train_counts.sum() + size) - np.log(train_counts + 1.0)  # [vocabulary]
    return float(validation_counts @ nats) / (math.log(2.0) * validation.num_bytes)


@dataclass(frozen=True)
class CompressorBaseline:
    """Bits per byte of validation text under LZMA at its strongest.

    Attributes:
        alone: validation text by itself; it has seen no training text, and no model file has to be paid for.
        given_training: size(training + validation) - size(training), over the validation bytes: what
            validation text adds once the compressor has read the training text, as a model has. The fairer.
        training_bytes: how much training text that was.
    """

    alone: float
    given_training: float | None
    training_bytes: int


def lzma_baseline(
    validation: bytes, training: bytes = b"", max_training_bytes: int | None = None
) -> CompressorBaseline:
    """LZMA2 as a baseline: preset 9 extreme, settings for text, a dictionary that holds everything.

    With 10 MB of training text it takes some 20 s on one core; `max_training_bytes` keeps only the end of the
    training text, which costs a few per cent, and the result says how much was used.

    Raises:
        InputError: no validation text.
    """
    if not validation:
        raise InputError("found no validation text, expected at least one byte to compress")
    if max_training_bytes is not None:
        training = training[max(0, len(training) - max_training_bytes) :]
    given = None
    if training:
        given = 8 * (lzma_size(training + validation) - lzma_size(training)) / len(validation)
    return CompressorBaseline(8 * lzma_size(validation) / len(validation), given, len(training))


def lzma_size(data: bytes) -> int:
    """Bytes of `data` as a raw LZMA2 stream, without the container's header and checksum."""
    # For text: the literal coder looks at four bits of the byte before (lc), and at no alignment (lp, pb).
    settings = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": min(max(len(data), 2**16), LZMA_MAX_DICTIONARY),
        "lc": 4,
        "lp": 0,
        "pb": 0,
    }
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=[settings]))
