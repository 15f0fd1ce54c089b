"""The two ways of lowering: onnxruntime's fused operators, and standard operators alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tfgpt.config import ModelConfig, Norm
from tfgpt_export import lower, portable


class Versions(NamedTuple):
    """Of the standard operators, and of the file format that belongs to them."""

    opset: int
    ir: int


@dataclass(frozen=True)
class Lowering:
    """What the named operations of a model become.

    Attributes:
        replacements: config -> the replacements for `tfgpt.ops.replaced` while tracing.
        counts: config -> how many of each operator there must be, the head apart.
        versions: config -> the lowest versions that have those operators.
        is_fused: whether operators of com.microsoft are among them.
    """

    replacements: Callable[[ModelConfig], dict]
    counts: Callable[[ModelConfig], dict[str, int]]
    versions: Callable[[ModelConfig], Versions]
    is_fused: bool


def _fused_versions(config: ModelConfig) -> Versions:
    """Gelu is of opset 20, RMSNormalization of 23."""
    return Versions(20, 9) if config.norm is Norm.LAYER else Versions(23, 11)


def _portable_versions(config: ModelConfig) -> Versions:
    """LayerNormalization is of opset 17."""
    return Versions(portable.OPSET, portable.IR_VERSION)


FUSED = Lowering(lower.lowered, lower.counts, _fused_versions, is_fused=True)
PORTABLE = Lowering(portable.lowered, portable.counts, _portable_versions, is_fused=False)
