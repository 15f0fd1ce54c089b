"""The language of the weight tables: one row per kind of tensor, run in both directions. Loads no TensorFlow.

A family's table pairs the tensor names of the published format with those of tfgpt; `{layer}` stands for the
number of each block. Reading applies `forward`, writing applies `inverse`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
    """How published tensors become one of ours, and back. Both take and return lists of arrays."""

    forward: Callable[[list[np.ndarray]], list[np.ndarray]]
    inverse: Callable[[list[np.ndarray]], list[np.ndarray]]


IDENTITY = Transform(forward=lambda tensors: tensors, inverse=lambda tensors: tensors)
# PyTorch's Linear keeps [out, in]; Keras's kernel is [in, out].
TRANSPOSE = Transform(
    forward=lambda tensors: [tensor.T for tensor in tensors],
    inverse=lambda tensors: [np.ascontiguousarray(tensor.T) for tensor in tensors],
)


@dataclass(frozen=True)
class Rule:
    """One row: published tensor `source` is tfgpt's weight `target` after `transform`."""

    source: str
    target: str
    transform: Transform = IDENTITY

    def for_layers(self, num_layers: int) -> Iterator["Rule"]:
        """The row itself, or one row per layer when it mentions `{layer}`."""
        if "{layer}" not in self.target:
            yield self
            return
        for layer in range(num_layers):
            names = (name.replace("{layer}", str(layer)) for name in (self.source, self.target))
            yield Rule(*names, self.transform)


def expand(rules: tuple[Rule, ...], num_layers: int) -> list[Rule]:
    """The whole table with every layer written out."""
    return [row for rule in rules for row in rule.for_layers(num_layers)]
