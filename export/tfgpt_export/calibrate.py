"""Rounding that knows what the weights are multiplied with (GPTQ: Frantar et al. 2022, arXiv 2210.17323).

Rounding a weight to the nearest number makes the error of the weight small; what counts is the error of the
product, |W X - Q X|, for the inputs X that the layer really sees. With H = X X^T over some text, columns are
rounded one after the other, and the error of each is made up for by those that are not rounded yet (their
equations 2 and 3, in the form of algorithm 1). Here a group of columns is one block, and its scale is
searched when its turn comes, on the columns as they are by then.
"""

from collections.abc import Callable

import numpy as np

from tfgpt import ops
from tfgpt.models.causal_lm import CausalLM
from tfgpt_export import blocks
from tfgpt_export.blocks import BlockFormat

# Added to the diagonal of H, as a share of its mean: directions that the text hardly has are left in place.
DAMPENING = 0.01
ROWS_AT_ONCE = 4096
HELD_BYTES = 2**29


def second_moments(model: CausalLM, token_ids: np.ndarray, wanted: Callable[[str], bool] = lambda name: True):
    """The mean of x x^T over the inputs x of each linear map, on text.

    Args:
        model: the Keras model.
        token_ids: int `[rows, length]`, given to the model one row at a time.
        wanted: of which weights, by their name: each takes width x width numbers.

    Returns:
        name of the kernel, or of the table of a tied head -> float32 `[in, in]`.
    """
    names = {id(variable): name for name, variable in model.named_weights().items()}
    moments: dict[str, np.ndarray] = {}

    def noting(definition):
        def noted(x, kernel, *bias):
            name = names[id(kernel)]
            if wanted(name):
                seen = np.asarray(x, np.float32).reshape(-1, x.shape[-1])
                moments[name] = moments.get(name, 0) + seen.T @ seen / token_ids.size
            return definition(x, kernel, *bias)

        return noted

    with ops.replaced({each.__name__: noting(each.definition) for each in (ops.linear, ops.tied_linear)}):
        for row in token_ids:
            model(row[None], training=False)
    return moments


class Calibration:
    """The second moments of each weight when its turn comes, those of as many at a time as `HELD_BYTES` take.

    The text runs through the model once for each group of weights, so memory does not grow with the depth.

    Args:
        model: the Keras model.
        token_ids: int `[rows, length]`.
        widths: name -> in, of the weights that will be asked for, in about that order.
    """

    def __init__(self, model: CausalLM, token_ids: np.ndarray, widths: dict[str, int]):
        self._model, self._token_ids, self._widths = model, token_ids, widths
        self._held: dict[str, np.ndarray] = {}

    def moments(self, name: str) -> np.ndarray | None:
        """float32 `[in, in]`, or `None` for a weight that no product reads."""
        if name not in self._held:
            self._held = {}  # freed before the next are made
            group = self._group_from(name)
            self._held = second_moments(self._model, self._token_ids, group.__contains__)
        return self._held.get(name)

    def _group_from(self, name: str) -> set[str]:
        names = list(self._widths)
        group, held = set(), 0
        for each in names[names.index(name) :]:
            held += 4 * self._widths[each] ** 2
            if group and held > HELD_BYTES:
                break
            group.add(each)
        return group


def calibrated(weight: np.ndarray, moments: np.ndarray, form: BlockFormat) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a weight so that its products change little.

    Args:
        weight: `[rows, in]`, one row for each number of the output.
        moments: `[in, in]`, from `second_moments`.
        form: bits and block size.

    Returns:
        uint8 `[rows, blocks, bytes]` and float32 scales `[rows, blocks]`, as `blocks.quantize_blocks` does.
    """
    inverse = _inverse_factor(moments)
    parts = [
        _calibrated_rows(weight[start : start + ROWS_AT_ONCE], inverse, form)
        for start in range(0, len(weight), ROWS_AT_ONCE)
    ]
    packed, scales = zip(*parts, strict=True)
    return np.concatenate(packed), np.concatenate(scales)


def _inverse_factor(moments: np.ndarray) -> np.ndarray:
    """Upper triangular U with H^-1 = U^T U, float32 `[in, in]`."""
    hessian = moments.astype(np.float64)
    diagonal = np.einsum("ii->i", hessian)  # a view
    diagonal += DAMPENING * diagonal.mean() or 1.0
    return np.linalg.cholesky(np.linalg.inv(hessian)).T.astype(np.float32)


def _calibrated_rows(weight: np.ndarray, inverse: np.ndarray, form: BlockFormat):
    rows, width = weight.shape
    left = np.array(weight, np.float32)  # what is to be rounded, errors so far made up for
    packed, scales = [], []
    for start in range(0, width, form.block_size):
        columns = slice(start, min(start + form.block_size, width))
        block = left[:, columns]
        _, scale = blocks.searched(blocks.blocks_of(block, form.block_size), form)
        numbers = np.zeros((rows, 1, form.block_size), np.float32)
        errors = np.empty_like(block)
        for column in range(block.shape[1]):
            own = inverse[start + column]
            number = blocks.rounded_by(block[:, None, column : column + 1], scale, form)[:, 0]
            numbers[:, 0, column] = number[:, 0]
            errors[:, column] = (block[:, column] - number[:, 0] * scale[:, 0]) / own[start + column]
            block[:, column + 1 :] -= errors[:, column, None] * own[start + column + 1 : columns.stop]
        left[:, columns.stop :] -= errors @ inverse[columns, columns.stop :]
        packed.append(blocks.pack(numbers, form))
        scales.append(scale)
    return np.concatenate(packed, axis=1), np.concatenate(scales, axis=1)
