"""Running a family's weight table: published tensors -> tfgpt's weights, and back. Loads no TensorFlow."""

import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tfgpt.checkpoints.readers import TensorReader
from tfgpt.checkpoints.rules import Rule, expand
from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.families.family import Family

# Anything else is an index, a mask, or a quantized number that a scale belongs to.
_FLOATS = ("float32", "float16", "bfloat16", "float64")


def read_weights(
    reader: TensorReader, family: Family, config: ModelConfig, shapes: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yields every weight of the model as (its name in tfgpt, a function that reads it).

    All names are checked before the first is yielded; shapes and finiteness as each is read.

    Args:
        reader: the published tensors.
        family, config: whose table, and with how many layers.
        shapes: the model's weights, by their names in tfgpt.

    Raises:
        InputError: a tensor is missing, left over, of another shape than the config says, or not finite.
    """
    for rule, name in match_names(reader, family, config):
        yield rule.target, _reading(reader, rule, name, shapes[rule.target])


def match_names(reader: TensorReader, family: Family, config: ModelConfig) -> list[tuple[Rule, str]]:
    """Every row of the weight table with the name of its tensor in the files.

    Needs no model: a config that asks for more than the files hold is found before anything of its size is
    made.

    Raises:
        InputError: a tensor is missing or left over.
    """
    published = _published_names(reader, family)
    if config.num_layers > len(published):
        raise InputError(
            f"{reader.directory}: config.json asks for {config.num_layers} layers, but found only "
            f"{len(published)} tensors: the weights and the config are not of one model"
        )
    rules = expand(family.weights(config), config.num_layers)
    _check_names(published, rules, family, reader.directory)
    return [(rule, published[rule.source]) for rule in rules]


def _reading(reader: TensorReader, rule: Rule, name: str, shape: tuple[int, ...]):
    def read() -> np.ndarray:
        published = reader.read(name)
        if published.dtype.name not in _FLOATS:
            raise InputError(
                f"{reader.directory}: tensor {name!r} has dtype {published.dtype.name}: expected one of "
                f"{', '.join(_FLOATS)}; save the model unquantized"
            )
        (tensor,) = rule.transform.forward([published])
        if tensor.shape != shape:
            raise InputError(
                f"{reader.directory}: tensor {name!r} has shape {list(tensor.shape)}, but config.json makes "
                f"it {list(shape)}: the weights and the config are not of one model"
            )
        # A float sum is NaN or infinite if any element is; no array of flags is made. inf - inf warns.
        with np.errstate(invalid="ignore", over="ignore"):
            total = tensor.sum(dtype=np.float64)
        if not np.isfinite(total):
            raise InputError(f"{reader.directory}: tensor {name!r} has NaN or infinite values")
        return tensor

    return read


def _published_names(reader: TensorReader, family: Family) -> dict[str, str]:
    """Name in the table -> name in the file, which may carry the family's prefix."""
    published = {}
    for name in reader.names():
        short = name.removeprefix(family.prefix)
        if short in published:
            raise InputError(
                f"{reader.directory}: found both {published[short]!r} and {name!r}: expected one"
            )
        published[short] = name
    return published


def _check_names(published: dict[str, str], rules: list[Rule], family: Family, where) -> None:
    wanted = {rule.source for rule in rules}
    missing = [rule.source for rule in rules if rule.source not in published]
    if missing:
        raise InputError(
            f"{where}: tensor {missing[0]!r} is missing{_and_more(missing)}; the config asks for it: found "
            f"{len(published)} tensors"
        )
    ignored = re.compile("|".join(f"(?:{pattern})" for pattern in family.ignored) or r"(?!)")
    left = [name for name in published if name not in wanted and not ignored.fullmatch(name)]
    if left:
        raise InputError(
            f"{where}: tensor {left[0]!r} has no place in a {family.title} of this config{_and_more(left)}"
        )


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def published_tensors(
    weights: dict[str, Callable[[], np.ndarray]], family: Family, config: ModelConfig
) -> Iterable[tuple[str, np.ndarray]]:
    """The inverse: (published name, tensor) for every row of the table, read one at a time.

    Raises:
        InputError: the model has a weight that the family's format has no place for, or lacks one.
    """
    rules = expand(family.weights(config), config.num_layers)
    extra = sorted(set(weights) - {rule.target for rule in rules})
    missing = sorted({rule.target for rule in rules} - set(weights))
    if extra or missing:
        found = f"has {extra[0]!r}" if extra else f"lacks {missing[0]!r}"
        raise InputError(f"the model {found}: {family.title}'s format has another set of weights")
    for rule in rules:
        (tensor,) = rule.transform.inverse([weights[rule.target]()])
        # The head stands outside the base model in every published format.
        prefix = "" if rule.source.startswith("lm_head.") else family.prefix
        yield prefix + rule.source, tensor
