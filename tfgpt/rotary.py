"""Rotary positions: how fast each pair of a head turns, and the turning itself."""

import math
from dataclasses import dataclass

import numpy as np
from keras import ops

from tfgpt.config import Yarn


@dataclass(frozen=True)
class RotarySpec:
    """Rotary positions (Su et al. 2021): which part of each head turns, how fast, and in which pairs."""

    dim: int
    base: float
    interleaved: bool
    yarn: Yarn | None = None

    @property
    def amplitude(self) -> float:
        """The factor on cosines and sines."""
        return 1.0 if self.yarn is None else self.yarn.attention_factor

    def frequencies(self) -> np.ndarray:
        """float32 `[dim / 2]`: how far each pair turns from one position to the next, in radians."""
        plain = 1.0 / np.float32(self.base) ** (np.arange(0, self.dim, 2, dtype=np.float32) / self.dim)
        if self.yarn is None:
            return plain
        # Peng et al. 2023, section 3.2: pairs `start` and before keep their speed, pairs `end` and after are
        # slowed by the factor. transformers' modeling_rope_utils.py bounds the ramp by dim - 1, too.
        start = max(self._pair_turning(self.yarn.beta_fast, math.floor), 0)
        end = min(self._pair_turning(self.yarn.beta_slow, math.ceil), self.dim - 1)
        width = end - start if end != start else 0.001
        ramp = np.clip((np.arange(self.dim // 2, dtype=np.float32) - start) / width, 0, 1).astype(np.float32)
        return plain / np.float32(self.yarn.factor) * ramp + plain * (1 - ramp)

    def _pair_turning(self, turns: float, rounding) -> float:
        """The (fractional) pair that turns so many times within the original context."""
        share = math.log(self.yarn.original_context / (turns * 2 * math.pi)) / (2 * math.log(self.base))
        return rounding(self.dim * share) if self.yarn.truncate else self.dim * share


def rotation(positions, rotary: RotarySpec):
    """Cosines and sines `[B, S, 1, dim / 2]` float32 of int positions `[B, S]`."""
    angle = ops.cast(positions, "float32")[:, :, None, None] * rotary.frequencies()  # [B, S, 1, dim / 2]
    return ops.cos(angle) * rotary.amplitude, ops.sin(angle) * rotary.amplitude


def rotate(x, angles, rotary: RotarySpec):
    """Turns pairs of the first `rotary.dim` numbers of each head (Su et al. 2021, equation 34)."""
    cosine, sine = (ops.cast(part, x.dtype) for part in angles)
    turned, rest = x[..., : rotary.dim], x[..., rotary.dim :]
    if rotary.interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = ops.split(turned, 2, axis=-1)
    parts = (first * cosine - second * sine, second * cosine + first * sine)
    if rotary.interleaved:
        turned = ops.reshape(ops.stack(parts, axis=-1), ops.shape(turned))
    else:
        turned = ops.concatenate(parts, axis=-1)
    return turned if rotary.dim == x.shape[-1] else ops.concatenate([turned, rest], axis=-1)
