"""From a mean loss to the numbers that people compare. No TF."""

import math

from tfgpt.errors import InputError


def perplexity(nats_per_token: float) -> float:
    """exp of the mean negative log-likelihood per token, in nats; infinite where that overflows."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


def bits_per_byte(nats_per_token: float, num_tokens: float, num_bytes: int) -> float:
    """Bits spent per byte of text: the measure that does not hang on the tokenizer.

    Args:
        nats_per_token: mean negative log-likelihood per predicted token.
        num_tokens: how many tokens were predicted, end-of-text tokens included, as they are paid for too.
        num_bytes: bytes of UTF-8 text that they stand for (`TokenShards.num_bytes`).
    """
    if num_bytes < 1:
        raise InputError(f"found {num_bytes} bytes of text, expected at least 1 to state bits per byte")
    return nats_per_token * num_tokens / (math.log(2.0) * num_bytes)
