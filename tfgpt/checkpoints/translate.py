"""Running a family's weight table: published tensors -> tfgpt's weights, and back. Loads no TensorFlow."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfgpt.checkpoints.arrays import is_finite
from tfgpt.checkpoints.readers import Reader
from tfgpt.checkpoints.rules import FLOATS, Rule, common_float, expand, readable, written
from tfgpt.config import ModelConfig
from tfgpt.errors import InputError, one_line
from tfgpt.families.family import Family


def read_weights(
    reader: Reader, family: Family, config: ModelConfig, shapes: dict[str, tuple[int, ...]]
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
    published = _published_names(reader, family)
    head = published.get(f"{family.head}weight")
    has_second = config.tie_embeddings and head is not None
    for rule, names in _match(published, family, config, reader.directory):
        read = _reading(reader, rule, names, shapes[rule.target])
        is_table = rule.target == "decoder/token_embedding/table"
        yield rule.target, _comparing(reader, head, read) if has_second and is_table else read


def _comparing(reader: Reader, head: str, read_table: Callable[[], np.ndarray]):
    """A tied head that files hold a second time must be the table: transformers does not tie it otherwise."""

    def read() -> np.ndarray:
        table = read_table()
        if not np.array_equal(reader.read(head), table):
            raise InputError(
                f"{reader.directory}: tensor {head!r} differs from the token table, but config.json ties the "
                "two: set tie_word_embeddings to false, or remove the tensor"
            )
        return table

    return read


def match_names(reader: Reader, family: Family, config: ModelConfig) -> list[tuple[Rule, tuple[str, ...]]]:
    """The row of the weight table that each weight is read by, with the names of its tensors in the files.

    Needs no model: a config that asks for more than the files hold is found before anything of its size is
    made.

    Raises:
        InputError: a tensor is missing or left over.
    """
    return _match(_published_names(reader, family), family, config, reader.directory)


def _match(
    published: dict[str, str], family: Family, config: ModelConfig, where: Path
) -> list[tuple[Rule, tuple[str, ...]]]:
    if config.num_layers > len(published):
        raise InputError(
            f"{where}: config.json asks for {config.num_layers} layers, but found only {len(published)} "
            "tensors: the weights and the config are not of one model"
        )
    rules = readable(expand(family.weights(config), config.num_layers), published)
    _check_names(published, rules, family, where)
    return [(rule, tuple(published[name] for name in rule.sources)) for rule in rules]


def stored_dtype(reader: Reader, names: tuple[str, ...]) -> str:
    """What a weight is kept in that these tensors make, without loss; bfloat16 where they are quantized."""
    dtypes = {reader.dtype(name) for name in names}
    return common_float(dtypes) if dtypes <= set(FLOATS) else "bfloat16"


def _reading(reader: Reader, rule: Rule, names: tuple[str, ...], shape: tuple[int, ...]):
    def read() -> np.ndarray:
        spelled = ", ".join(map(repr, names))
        published = [_read(reader, name, rule.transform.dtypes) for name in names]
        try:
            (tensor,) = rule.transform.forward(published)
        except ValueError as error:
            found = ", ".join(str(list(each.shape)) for each in published)
            raise InputError(
                f"{reader.directory}: tensor {spelled} has shape {found}, which does not make the "
                f"{list(shape)} of config.json ({one_line(error)}): the weights and the config are not of "
                "one model"
            ) from None
        if tensor.shape != shape:
            raise InputError(
                f"{reader.directory}: tensor {spelled} has shape {list(tensor.shape)}, but config.json makes "
                f"it {list(shape)}: the weights and the config are not of one model"
            )
        if tensor.dtype.name in FLOATS and not is_finite(tensor):
            raise InputError(f"{reader.directory}: tensor {spelled} has NaN or infinite values")
        return tensor

    return read


def _read(reader: Reader, name: str, dtypes: tuple[str, ...]) -> np.ndarray:
    tensor = reader.read(name)
    if tensor.dtype.name not in dtypes:
        raise InputError(
            f"{reader.directory}: tensor {name!r} has dtype {tensor.dtype.name}: expected one of "
            f"{', '.join(dtypes)}; save the model unquantized"
        )
    return tensor


def _published_names(reader: Reader, family: Family) -> dict[str, str]:
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


def _check_names(published: dict[str, str], rules: list[Rule], family: Family, where: Path) -> None:
    wanted = dict.fromkeys(name for rule in rules for name in rule.sources)
    missing = [name for name in wanted if name not in published]
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


class Weight(NamedTuple):
    """One of a model's weights: known beforehand, read when its turn comes."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    @property
    def num_elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class TensorSpec(NamedTuple):
    """What a file's header says of one tensor; the dtype by NumPy's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Of the tensor in the file."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class PublishedTensors(NamedTuple):
    """The tensors that one weight becomes: known beforehand, read when their turn comes."""

    specs: tuple[TensorSpec, ...]
    read: Callable[[], list[np.ndarray]]


def published_tensors(
    weights: dict[str, Weight], family: Family, config: ModelConfig
) -> list[PublishedTensors]:
    """The inverse of `read_weights`: what every row of the table writes.

    Wider dtypes come first, so that every tensor of a file stands at a multiple of its own width.

    Raises:
        InputError: the model has a weight that the family's format has no place for, or lacks one.
    """
    rules = written(expand(family.weights(config), config.num_layers))
    extra = sorted(set(weights) - {rule.target for rule in rules})
    missing = sorted({rule.target for rule in rules} - set(weights))
    if extra or missing:
        found = f"has {extra[0]!r}" if extra else f"lacks {missing[0]!r}"
        raise InputError(f"the model {found}: {family.title}'s format has another set of weights")
    rules.sort(key=lambda rule: -np.dtype(weights[rule.target].dtype).itemsize)
    return [_published(rule, weights[rule.target], family) for rule in rules]


def _published(rule: Rule, weight: Weight, family: Family) -> PublishedTensors:
    # One element seen from everywhere: an array of that shape which takes no memory.
    shapes = rule.transform.inverse([np.broadcast_to(np.zeros((), weight.dtype), weight.shape)])
    specs = tuple(
        TensorSpec(family.published_name(name), each.shape, each.dtype.name)
        for name, each in zip(rule.sources, shapes, strict=True)
    )
    return PublishedTensors(specs, lambda: rule.transform.inverse([weight.read()]))
