"""Arrays between files and models: aligned memory, copies in blocks, finiteness. Loads no TensorFlow."""

import ml_dtypes  # which also registers bfloat16 and the kinds of float8 with NumPy
import numpy as np

from tfgpt.errors import InputError

# TensorFlow and XLA take memory over, instead of copying it, where it begins at a multiple of this.
ALIGNMENT = 64
# Of a transposed matrix, a square of this many rows is copied at a time: it fits the cache both ways round.
_BLOCK_ROWS = 512
# Elements looked at at a time when a tensor is checked.
_CHECKED = 1 << 18
# dtype -> (its bits as numbers, all bits but the sign, infinity): whatever is not less is infinite or NaN.
_BITS = {
    "float64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "float32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "float16": (np.uint16, 0x7FFF, 0x7C00),
    "bfloat16": (np.uint16, 0x7FFF, 0x7F80),
}


def empty_aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array without values whose memory begins at a multiple of `ALIGNMENT`."""
    dtype = np.dtype(dtype)
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def laid_out(array: np.ndarray, dtype) -> np.ndarray:
    """The array as `dtype`, contiguous and aligned: itself where it is so already, otherwise a copy.

    NumPy copies a transposed matrix element by element down a column; in blocks it takes a third of the time.
    """
    aligned = array.ctypes.data % ALIGNMENT == 0
    if aligned and array.flags.c_contiguous and array.dtype == dtype:
        return array
    copy = empty_aligned(array.shape, dtype)
    if array.ndim != 2 or array.flags.c_contiguous:
        np.copyto(copy, array, casting="unsafe")
        return copy
    for row in range(0, array.shape[0], _BLOCK_ROWS):
        for column in range(0, array.shape[1], _BLOCK_ROWS):
            block = np.s_[row : row + _BLOCK_ROWS, column : column + _BLOCK_ROWS]
            np.copyto(copy[block], array[block], casting="unsafe")
    return copy


def cast(name: str, array: np.ndarray, dtype) -> np.ndarray:
    """A finite array as `dtype`, laid out; InputError where one of its numbers would become infinite."""
    with np.errstate(over="ignore"):
        converted = laid_out(array, dtype)
    if converted.dtype.name not in _BITS or array.dtype.name not in _BITS:
        return converted
    if _largest(converted.dtype) < _largest(array.dtype) and not is_finite(converted):
        largest = float(np.abs(array).max())
        wide = [each for each in ("float32", "bfloat16", "float16") if largest <= _largest(each)]
        advice = f"take {' or '.join(wide)}" if wide else "no dtype of weights does"
        raise InputError(
            f"{name} has numbers up to {largest:.3g}, more than {converted.dtype.name} holds: {advice}"
        )
    return converted


def _largest(dtype) -> float:
    return float(ml_dtypes.finfo(dtype).max)


def is_finite(array: np.ndarray) -> bool:
    """Whether a float array has neither NaN nor infinity: exact, at the speed of memory."""
    # In the order of memory, so that a transposed view is not copied.
    flat = array.reshape(-1, order="A") if array.flags.forc else np.ascontiguousarray(array).reshape(-1)
    if flat.dtype in (np.float32, np.float64):
        with np.errstate(all="ignore"):
            sum_of_squares = np.dot(flat, flat)
        if np.isfinite(sum_of_squares):  # no square is negative: nothing infinite or NaN cancels
            return True
    kind, magnitude, infinity = _BITS[array.dtype.name]
    bits = flat.view(kind)
    scratch = np.empty(min(_CHECKED, bits.size), kind)
    for start in range(0, bits.size, _CHECKED):
        part = bits[start : start + _CHECKED]
        if np.bitwise_and(part, kind(magnitude), out=scratch[: part.size]).max() >= infinity:
            return False
    return True
