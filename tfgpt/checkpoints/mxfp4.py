"""MXFP4, four-bit floats in blocks of 32 with one power of two each. Loads no TensorFlow.

Open Compute Project, "OCP Microscaling Formats (MX) Specification v1.0": its E2M1 elements and E8M0 scales.
"""

import ml_dtypes
import numpy as np

from tfgpt.checkpoints.rules import Transform

# E2M1 without its sign bit: 1 exponent of 2 bits, 1 bit of fraction.
_MAGNITUDES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
_SCALE_BIAS = 127
_NAN_SCALE = 255


def _pairs() -> np.ndarray:
    """float32 `[256, 2]`: the two numbers of each byte, the lower four bits first."""
    numbers = np.concatenate([_MAGNITUDES, -_MAGNITUDES])
    byte = np.arange(256)
    return np.stack([numbers[byte & 15], numbers[byte >> 4]], axis=1)


def decode(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The numbers of MXFP4 blocks, exact in bfloat16.

    One slice of the first axis is decoded at a time, so that memory holds the result and little more.

    Args:
        blocks: uint8 `[experts, rows, blocks, 16]`, two numbers to a byte.
        scales: uint8 `[experts, rows, blocks]`, each the exponent of a power of two, plus 127; 255 is NaN.

    Returns:
        bfloat16 `[experts, rows, 32 * blocks]`.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if blocks.ndim != 4 or blocks.shape[:3] != scales.shape or blocks.shape[3] != 16:
        raise ValueError(f"found blocks of shape {blocks.shape} and scales of shape {scales.shape}")
    experts, rows, num_blocks, _ = blocks.shape
    numbers = np.empty((experts, rows, 32 * num_blocks), ml_dtypes.bfloat16)
    pairs = _pairs()
    for expert in range(experts):
        exponents = scales[expert].astype(np.int32) - _SCALE_BIAS  # [rows, blocks]
        # 6 * 2 ** 127 is infinite, and the reader refuses it.
        with np.errstate(over="ignore"):
            powers = np.where(scales[expert] == _NAN_SCALE, np.nan, np.ldexp(1.0, exponents))
            decoded = pairs[blocks[expert]].reshape(rows, num_blocks, 32)
            decoded *= powers.astype(np.float32)[:, :, None]
            numbers[expert] = decoded.reshape(rows, -1)
    return numbers


def _refuse_to_encode(tensors):
    raise NotImplementedError("MXFP4 is read, never written")


# (blocks, scales) -> one kernel, each row of which makes one number of the output.
MXFP4 = Transform(forward=lambda tensors: [decode(*tensors)], inverse=_refuse_to_encode, dtypes=("uint8",))
