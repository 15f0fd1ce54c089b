"""Attention probabilities as heat maps, with NumPy alone."""

from collections.abc import Sequence

import numpy as np

# Anchors of matplotlib's viridis (CC0), from 0 to 1: dark blue, blue, green, yellow; it prints well in grey.
_VIRIDIS = np.array(
    [(68, 1, 84), (65, 68, 135), (42, 120, 142), (34, 168, 132), (122, 209, 81), (253, 231, 37)], float
)


def colour(values: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1, `[...]`, as colours, uint8 `[..., 3]`."""
    places = np.clip(values, 0.0, 1.0) * (len(_VIRIDIS) - 1)
    anchors = np.arange(len(_VIRIDIS))
    channels = [np.interp(places, anchors, _VIRIDIS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def heat_map(probabilities: np.ndarray, size: int = 256) -> np.ndarray:
    """One head: `[query, key]` -> uint8 `[height, width, 3]`, queries downwards, keys to the right.

    Colours show the square root of the probability, so that a weight of 1 % can be told from none. Every cell
    is a square of whole pixels; the longer side has at least `size` of them.
    """
    pixels = max(1, -(-size // max(probabilities.shape)))
    image = colour(np.sqrt(np.clip(np.asarray(probabilities, np.float32), 0.0, 1.0)))
    return image.repeat(pixels, axis=0).repeat(pixels, axis=1)


def layer_image(probabilities: np.ndarray, heads: Sequence[int], size: int = 256, gap: int = 8) -> np.ndarray:
    """Some heads of one layer side by side, white between them: `[heads, query, key]` -> uint8 image."""
    tiles = []
    for head in heads:
        tile = heat_map(probabilities[head], size)
        tiles += [np.full((tile.shape[0], gap, 3), 255, np.uint8), tile]
    return np.concatenate(tiles[1:], axis=1)
