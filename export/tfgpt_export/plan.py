"""How each weight of a quantized file is stored: which bits, which blocks, and along which axis."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tfgpt.config import ModelConfig
from tfgpt_export import blocks
from tfgpt_export.blocks import BlockFormat
from tfgpt_export.calibrate import Calibration, calibrated

# The precisions whose weights are stored in blocks, and the bits of a number.
BITS = {"int8": 8, "int4": 4}
# Without a text to calibrate on. What a search gains with 8 bits is not worth its time.
# Times the error of blocks that a weight may have with one scale for each output column.
MOST_BY_ROW = 1.5
ROUNDING = {8: blocks.nearest, 4: blocks.searched}


@dataclass
class QuantizationPlan:
    """Which weights are stored in blocks, and how.

    `forms`: how each of them is stored. `transposed`: those `[in, out]` that are stored by output column,
    `[out, blocks, bytes]`; the others are tables `[rows, in]` that are stored by row already. `by_row`: those
    of 8 bits whose blocks share one scale for each output column, for `prompt_graph.py`: candidates at first,
    and once `tensors` has seen them those that lose little by it.
    """

    forms: dict[str, BlockFormat] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)
    by_row: set[str] = field(default_factory=set)

    def tensors(
        self, name: str, read: Callable[[], np.ndarray], calibration: Calibration | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """The initializers that stand for one weight, rounded with regard to a text if there is one."""
        weight = read()
        form = self.forms.get(name)
        if form is None:
            yield name, weight.astype(np.float32, copy=False)
            return
        stored = weight.T if name in self.transposed else weight
        moments = None if calibration is None or form.bits == 8 else calibration.moments(name)
        if moments is None:
            packed, scales = blocks.quantize_blocks(stored, form, ROUNDING[form.bits])
            if name in self.by_row and _loses_little_by_row(scales):
                packed, scales = blocks.quantize_blocks(stored, form, blocks.nearest_by_row)
            else:
                self.by_row.discard(name)
        else:
            packed, scales = calibrated(stored, moments, form)
        yield quantized_name(name, form), packed
        yield scales_name(name), scales

    def num_bytes(self, shapes: dict[str, tuple[int, ...]]) -> int:
        """Bytes of all initializers of weights of these shapes."""
        total = 0
        for name, shape in shapes.items():
            if name in self.forms:
                total += self.forms[name].num_bytes(*self._stored_shape(name, shape))
            else:
                total += 4 * int(np.prod(shape))
        return total

    def widths(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
        """Numbers in a row of each weight that is stored in blocks."""
        return {name: self._stored_shape(name, shapes[name])[1] for name in self.forms}

    def rounded(self, name: str, shape: tuple[int, int], packed: np.ndarray, scales: np.ndarray):
        """What the kernels compute with in place of one weight: float32 of its shape."""
        width = self._stored_shape(name, shape)[1]
        weight = blocks.dequantize_blocks(packed, scales, self.forms[name], width)
        return weight.T if name in self.transposed else weight

    def _stored_shape(self, name: str, shape) -> tuple[int, int]:
        return shape[::-1] if name in self.transposed else shape


def _loses_little_by_row(scales: np.ndarray) -> bool:
    """Whether one scale for each row rounds hardly worse than these of its blocks, float32 [rows, blocks].

    An error is uniform within a step, so its square grows with that of the scale. Of Gaussian numbers the
    largest of 3,072 is 1.3 times the largest of 128; an input that stands out makes it many times.
    """
    by_row = np.square(scales.max(axis=1), dtype=np.float64).mean()
    return bool(by_row <= MOST_BY_ROW**2 * np.square(scales, dtype=np.float64).mean())


def quantized_name(name: str, form: BlockFormat) -> str:
    """The initializer with a weight's numbers."""
    return f"{name}.q{form.bits}"


def scales_name(name: str) -> str:
    """The initializer with a weight's scales."""
    return f"{name}.scales"


def form_chooser(
    precision: str, config: ModelConfig, block_size: int | None = None
) -> Callable[[str], BlockFormat]:
    """weight name -> how it is stored in a file of this precision.

    8 bits: the largest block of 128, 64 and 32 that divides the width of the token table, or else 32, since
    fewer scales are fewer bytes to read for each token. 4 bits: blocks of 32, since they lose more with
    larger ones.
    """
    bits = BITS[precision]
    sizes = (128, 64, 32) if bits == 8 else (32,)
    whole = next((size for size in sizes if config.hidden_dim % size == 0), 32)
    form = BlockFormat(bits, block_size or whole)
    return lambda name: form
