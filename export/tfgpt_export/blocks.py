"""Weights in blocks of small whole numbers, each block with one float32 scale.

    8 bits   q = round(w / scale) + 128, scale = max |w| / 127
    4 bits   q = round(w / scale) + 8, two numbers to a byte, the first in the low half

A block is `block_size` numbers along the input axis; the blocks of an output column may share one scale
(`nearest_by_row`). This is the layout that `MatMulNBits` and
`GatherBlockQuantized` of onnxruntime read, both from the same bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfgpt.errors import InputError

# Numbers that are in memory as float32 at once: a weight of any size takes no more.
NUMBERS_AT_ONCE = 2**22

# Of the scale that the largest number of a block asks for: where a better one is searched for.
SCALE_FACTORS = (1.07, 1.0, 0.93, 0.86, 0.79)


@dataclass(frozen=True)
class BlockFormat:
    """How many bits a number has, and how many numbers share a scale.

    Raises:
        InputError: a block size that is no power of 2 from 16 on.
    """

    bits: int
    block_size: int

    def __post_init__(self):
        if self.block_size < 16 or self.block_size & (self.block_size - 1):
            raise InputError(f"block_size is {self.block_size}: expected a power of 2 from 16 on")

    @property
    def zero_point(self) -> int:
        """The number that stands for 0; those below it are negative."""
        return 1 << (self.bits - 1)

    @property
    def row_bytes_of_block(self) -> int:
        """Bytes of one block, its scale not counted."""
        return self.block_size * self.bits // 8

    def num_bytes(self, rows: int, width: int) -> int:
        """Bytes of a weight of `rows` times `width` numbers, the scales included."""
        return rows * -(-width // self.block_size) * (self.row_bytes_of_block + 4)


Rounding = Callable[[np.ndarray, BlockFormat], tuple[np.ndarray, np.ndarray]]


def quantize_blocks(
    weight: np.ndarray, form: BlockFormat, rounding: Rounding | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric quantization by blocks along the last axis, some rows at a time.

    Args:
        weight: of any float dtype, `[rows, in]`; `in` is padded with zeros to whole blocks.
        form: bits and block size.
        rounding: float32 blocks `[n, blocks, block_size]` -> whole numbers around 0 of the same shape, and
            scales `[n, blocks]`; `None` is `nearest`.

    Returns:
        uint8 `[rows, blocks, bytes]` and float32 scales `[rows, blocks]`.
    """
    rows, width = weight.shape
    rounding = rounding or nearest
    num_blocks = -(-width // form.block_size)
    packed = np.empty((rows, num_blocks, form.row_bytes_of_block), np.uint8)
    scales = np.empty((rows, num_blocks), np.float32)
    step = max(1, NUMBERS_AT_ONCE // (num_blocks * form.block_size))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        numbers, scales[part] = rounding(blocks_of(weight[part], form.block_size), form)
        packed[part] = pack(numbers, form)
    return packed, scales


def blocks_of(weight: np.ndarray, block_size: int) -> np.ndarray:
    """`[rows, in]` -> float32 `[rows, blocks, block_size]`, the last block filled up with zeros."""
    rows, width = weight.shape
    num_blocks = -(-width // block_size)
    padded = np.zeros((rows, num_blocks * block_size), np.float32)
    padded[:, :width] = weight
    return padded.reshape(rows, num_blocks, block_size)


def nearest(blocks: np.ndarray, form: BlockFormat) -> tuple[np.ndarray, np.ndarray]:
    """The nearest number to each, the scale from the largest of its block.

    With 4 bits the largest becomes -8, whichever its sign is: there is one negative number more than there
    are positive ones (as llama.cpp's `quantize_row_q4_0_reference` has it).
    """
    if form.bits == 8:
        scales = np.abs(blocks).max(axis=2) / 127.0
    else:
        at = np.abs(blocks).argmax(axis=2)[:, :, None]
        scales = np.take_along_axis(blocks, at, axis=2)[:, :, 0] / -form.zero_point
    return rounded_by(blocks, scales, form), scales


def nearest_by_row(blocks: np.ndarray, form: BlockFormat) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, with one scale for all blocks of a row, so that it can be read without blocks as well."""
    largest = np.abs(blocks).max(axis=(1, 2), keepdims=True)[:, :, 0]
    scales = np.broadcast_to(largest / np.float32(127), blocks.shape[:2]).copy()
    return rounded_by(blocks, scales, form), scales


def searched(blocks: np.ndarray, form: BlockFormat) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, with the scale that loses least: the sum of squared errors of each block decides.

    A smaller scale cuts off the largest number and rounds all others more finely. With the numbers settled
    the best scale for them is known: sum(w q) / sum(q^2).
    """
    numbers, scales = nearest(blocks, form)
    first, least = scales, np.square(blocks - numbers * scales[:, :, None]).sum(axis=2)
    for factor in SCALE_FACTORS:
        tried = first * np.float32(factor)
        found = rounded_by(blocks, tried, form)
        squares = np.square(found).sum(axis=2)
        tried = (blocks * found).sum(axis=2) / np.where(squares == 0, np.float32(1), squares)
        error = np.square(blocks - found * tried[:, :, None]).sum(axis=2)
        better = error < least
        numbers[better], scales = found[better], np.where(better, tried, scales)
        least = np.where(better, error, least)
    return numbers, scales


def rounded_by(blocks: np.ndarray, scales: np.ndarray, form: BlockFormat) -> np.ndarray:
    """float32 `[n, blocks, block_size]`: the whole numbers nearest to blocks / scales that the bits hold."""
    divisor = np.where(scales == 0, np.float32(1), scales)[:, :, None]
    numbers = np.rint(blocks / divisor)
    return np.clip(numbers, -form.zero_point, form.zero_point - 1, out=numbers)


def pack(numbers: np.ndarray, form: BlockFormat) -> np.ndarray:
    """Whole numbers around 0 `[rows, blocks, block_size]` -> uint8 `[rows, blocks, bytes]`."""
    stored = (numbers + form.zero_point).astype(np.uint8)
    if form.bits == 8:
        return stored
    return stored[:, :, 0::2] | (stored[:, :, 1::2] << 4)


def unpack(packed: np.ndarray, form: BlockFormat) -> np.ndarray:
    """uint8 `[rows, blocks, bytes]` -> float32 numbers around 0 `[rows, blocks, block_size]`."""
    if form.bits == 8:
        return packed.astype(np.float32) - form.zero_point
    numbers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], form.block_size)
    return numbers.astype(np.float32) - form.zero_point


def dequantize_blocks(packed: np.ndarray, scales: np.ndarray, form: BlockFormat, width: int) -> np.ndarray:
    """What the numbers stand for: float32 `[rows, width]`."""
    return (unpack(packed, form) * scales[:, :, None]).reshape(len(packed), -1)[:, :width]
