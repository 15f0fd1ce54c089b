"""Prompts of different lengths as one array, padded on the left. NumPy only."""

from collections.abc import Sequence

import numpy as np


def left_pad(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, both int64 [batch, length]; the mask is 1 at tokens and 0 at padding.

    Padding stands on the left, so that every row's next token has the same column. Its token id, 0, is a
    valid row of every embedding table and is never attended to.
    """
    length = max(len(prompt) for prompt in prompts)
    token_ids = np.zeros((len(prompts), length), np.int64)  # [batch, length]
    mask = np.zeros((len(prompts), length), np.int64)  # [batch, length]
    for row, prompt in enumerate(prompts):
        token_ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return token_ids, mask


def position_ids(mask: np.ndarray) -> np.ndarray:
    """Positions of the tokens, counted from each row's first real one; mask [batch, length] -> the same."""
    return np.maximum(np.cumsum(mask, axis=1) - 1, 0)
