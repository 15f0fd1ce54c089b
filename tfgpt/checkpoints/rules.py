"""The language of the weight tables: one row per kind of tensor, run in both directions. Loads no TensorFlow.

A family's table pairs the tensor names of the published format with those of tfgpt; `{layer}` stands for the
number of each block. Reading applies `forward`, writing applies `inverse`.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Anything else is an index, a mask, or a quantized number that a scale belongs to.
FLOATS = ("float32", "float16", "bfloat16", "float64")


def common_float(dtypes: Iterable[str]) -> str:
    """The narrowest of `FLOATS` that has every number of these (one at least): the two of 16 bits make 32."""
    different = set(dtypes)
    if len(different) == 1:
        return different.pop()
    return "float64" if "float64" in different else "float32"


class Transform(NamedTuple):
    """How published tensors become one of ours, and back. Both take and return lists of arrays, or of views.

    The writer also asks `inverse` for the shapes alone, with arrays that take no memory.

    `dtypes`: what the published tensors may be, by NumPy's names.
    """

    forward: Callable[[list[np.ndarray]], list[np.ndarray]]
    inverse: Callable[[list[np.ndarray]], list[np.ndarray]]
    dtypes: tuple[str, ...] = FLOATS


IDENTITY = Transform(forward=lambda tensors: tensors, inverse=lambda tensors: tensors)
# PyTorch's Linear keeps [out, in]; Keras's kernel is [in, out].
TRANSPOSE = Transform(
    forward=lambda tensors: [tensor.T for tensor in tensors],
    inverse=lambda tensors: [tensor.T for tensor in tensors],
)


def side_by_side(*sizes: int) -> Transform:
    """Several PyTorch kernels `[size, in]` (or biases `[size]`) are one of ours, `[in, sum of sizes]`.

    One of another size is refused: the sum of all may fit nevertheless, and be cut at other places.
    """
    ends = np.cumsum(sizes)[:-1]

    def forward(tensors):
        found = tuple(size for tensor in tensors for size in tensor.shape[:1])
        if found != sizes:
            raise ValueError(f"found {found} rows, expected {sizes}")
        dtype = common_float(tensor.dtype.name for tensor in tensors)
        return [np.concatenate([tensor.T for tensor in tensors], axis=-1, dtype=dtype)]

    def inverse(tensors):
        return [part.T for part in np.split(tensors[0], ends, axis=-1)]

    return Transform(forward, inverse)


@dataclass(frozen=True)
class Rule:
    """One row: published tensor `source` (or several) is tfgpt's weight `target` after `transform`.

    Rows with one target are alternatives: the first whose tensors are all there is read, the first of all is
    written.
    """

    source: str | tuple[str, ...]
    target: str
    transform: Transform = IDENTITY

    @property
    def sources(self) -> tuple[str, ...]:
        """The published names, also of a single one."""
        return (self.source,) if isinstance(self.source, str) else self.source

    def for_layers(self, num_layers: int) -> Iterator["Rule"]:
        """The row itself, or one row per layer when it mentions `{layer}`."""
        if "{layer}" not in self.target:
            yield self
            return
        for layer in range(num_layers):
            sources = tuple(name.replace("{layer}", str(layer)) for name in self.sources)
            yield Rule(sources, self.target.replace("{layer}", str(layer)), self.transform)


def expand(rules: tuple[Rule, ...], num_layers: int) -> list[Rule]:
    """The whole table with every layer written out."""
    return [row for rule in rules for row in rule.for_layers(num_layers)]


def written(rules: list[Rule]) -> list[Rule]:
    """The first row of each target."""
    first: dict[str, Rule] = {}
    for rule in rules:
        first.setdefault(rule.target, rule)
    return list(first.values())


def readable(rules: list[Rule], published: Container[str]) -> list[Rule]:
    """One row for each target: the first whose tensors are all there, else the first, whose lack is told."""
    there = [rule for rule in rules if all(name in published for name in rule.sources)]
    by_target = {rule.target: rule for rule in reversed(there)}
    return [by_target.get(rule.target, rule) for rule in written(rules)]
