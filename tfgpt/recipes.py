"""Recipes of `tfgpt train`: YAML -> typed settings. Loads no TensorFlow.

Every setting and its default stands here, and nowhere else; a YAML file states what differs. Paths are
relative to the directory that the command runs in.
"""

import dataclasses
import os
import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError, nearest
from tfgpt.paths import user_path

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]

_MODEL_FIELDS = {field.name for field in dataclasses.fields(ModelConfig)} - {"family"}


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, types are exact, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelSection(Section):
    """The model: a published size, or the fields of `ModelConfig`, or a size with some fields changed.

    `vocabulary_size` and `context_length` follow from the data where they are not stated.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    family: str = "gpt2"
    size: str | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The stated fields of `ModelConfig`."""
        return dict(self.__pydantic_extra__ or {})


class DataSection(Section):
    """The text and how it becomes tokens."""

    corpus: str | None = None  # a file or directory (.txt, .jsonl, .gz); null: Python's standard library
    tokenizer: str = "byte_pair"  # learn "byte_pair" or "character", or a directory that holds one
    vocabulary_size: Positive = 8192  # of a learned byte-pair vocabulary
    context_length: Positive = 256  # tokens of a training window
    cache_directory: str | None = None  # null: OUTPUT/data
    validation_fraction: Fraction = 0.05  # share of the files
    max_bytes: Positive | None = None  # use about this much text


class OptimizerSection(Section):
    """AdamW; see `tfgpt.training.optimizer`."""

    learning_rate: Rate = 6e-4  # the largest, after warmup
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.95
    epsilon: Rate = 1e-8
    clip_norm: Rate | None = 1.0  # of the whole gradient; null: no clipping
    decay_embeddings: bool = True
    no_decay: list[str] = []  # regular expressions over the paths of variables


class ScheduleSection(Section):
    """The learning rate over the steps; see `tfgpt.training.schedules`."""

    kind: Literal["cosine", "warmup_stable_decay", "constant"] = "cosine"
    warmup_steps: NotNegative | None = None  # null: 100, or a tenth of the steps where that is less
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1  # of the learning rate, at the last step
    decay_fraction: Fraction = 0.2  # of the steps, for warmup_stable_decay


class TrainingSection(Section):
    """The run. Steps are updates of the weights, batch sizes are global."""

    steps: Positive = 2000
    batch_size: Positive = 16
    micro_batches: Positive = 1  # slices that a batch is cut into, to save memory
    seed: NotNegative = 0
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    jit: bool | Literal["auto"] = "auto"  # XLA; the rule is in tfgpt.training.strategy
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto"
    steps_per_execution: Positive = 1  # fewer where a validation or a checkpoint is due before
    validate_every: Positive = 250  # steps; and after the last one
    checkpoint_every: Positive = 250  # steps; and after the last one
    keep_last: Positive = 2  # checkpoints
    early_stopping_patience: Positive | None = None  # validations without improvement
    ema_momentum: Fraction | None = None  # average the weights: validate and keep the average


class TensorBoardSection(Section):
    """What is written to OUTPUT/tensorboard."""

    enabled: bool = True
    write_every: Positive = 10  # steps between the points of curves
    peak_flops: Rate | None = None  # of all devices together; shows model FLOPs utilisation
    sample_prompt: str = "\n"
    sample_tokens: NotNegative = 48  # written after every validation; 0: none
    attention_layers: NotNegative = 2  # drawn after every validation; 0: none
    attention_heads: Positive = 4


class Recipe(Section):
    """A training job."""

    task: Literal["pretrain"] = "pretrain"
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    training: TrainingSection = TrainingSection()
    tensorboard: TensorBoardSection = TensorBoardSection()
    output: str = "output"

    @property
    def warmup_steps(self) -> int:
        """Steps of warmup: as stated, or else 100, but no more than a tenth of all."""
        stated = self.schedule.warmup_steps
        return min(100, self.training.steps // 10) if stated is None else stated

    @model_validator(mode="after")
    def _check_sizes(self):
        training = self.training
        _multiple("training.batch_size", training.batch_size, "micro_batches", training.micro_batches)
        if self.schedule.kind != "constant" and self.warmup_steps >= training.steps:
            raise ValueError(
                f"found schedule.warmup_steps {self.warmup_steps}, expected fewer than the "
                f"{training.steps} of training.steps; leave it out to take a tenth of them"
            )
        return self


def load_recipe(path: str | os.PathLike, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Reads a YAML recipe.

    Args:
        path: of the file.
        overrides: `key.path=value` each, as of `--set`; values are YAML.

    Raises:
        InputError: a missing file, broken YAML (with the line), an unknown key (with the nearest), a wrong
            type, or settings that contradict each other.
    """
    path = user_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"found no file {path}, expected a recipe in YAML; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"found {path} unreadable ({error}), expected a recipe in YAML") from None
    values = _parse(text, str(path))
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f"found {_spell(values)} in {path}, expected keys such as 'model:' and 'training:'")
    for override in overrides:
        _override(values, override)
    return make_recipe(values, str(path))


def make_recipe(values: dict[str, Any], source: str = "the recipe") -> Recipe:
    """A recipe from nested dictionaries; InputError names `source` and the key."""
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, source)) from None
    for name in recipe.model.fields:
        if name not in _MODEL_FIELDS:
            choices = _MODEL_FIELDS | {"family", "size"}
            raise InputError(f"found the unknown key 'model.{name}' in {source}{nearest(name, choices)}")
    return recipe


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """All settings, defaults filled in, as nested dictionaries that `make_recipe` takes back."""
    return recipe.model_dump(mode="json")


def _multiple(name, value, divisor_name, divisor):
    if value % divisor:
        raise ValueError(
            f"found {name} {value}, expected a multiple of training.{divisor_name} {divisor}; "
            f"{value - value % divisor or divisor} would be one"
        )


def _override(values: dict, override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"found --set {override!r}, expected key.path=value, such as training.steps=100")
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise InputError(f"found --set {override!r}, but {key!r} is a value, not a section")
    values[keys[-1]] = _parse(text, f"--set {override!r}")


def _explain(error: ValidationError, source: str) -> str:
    """The first fault as one line."""
    faults = error.errors()
    fault, location = faults[0], _location(faults[0])
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        section = Recipe
        for part in location[:-1]:
            section = section.model_fields[part].annotation
        return f"found the unknown key {key!r} in {source}{nearest(location[-1], section.model_fields)}"
    if fault["type"] == "value_error":
        return f"{fault['ctx']['error']} (in {source})"
    # A setting that may be of several types has one fault for each.
    expected = " or ".join(_expected(other) for other in faults if _location(other) == location)
    return f"found {key}: {_spell(fault['input'])} in {source}, expected {expected}"


def _location(fault) -> list[str]:
    return [str(part) for part in fault["loc"] if not str(part).startswith(("literal[", "bool"))]


def _expected(fault) -> str:
    context = fault.get("ctx", {})
    if fault["type"] == "literal_error":
        choices = context["expected"]
        return f"one of {choices}" if " " in choices else choices
    known = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "string_type": "text",
        "bool_type": "true or false",
        "list_type": "a list",
        "model_type": "a section with keys",
        "model_attributes_type": "a section with keys",
        "finite_number": "a finite number",
    }
    return known.get(fault["type"], fault["msg"].removeprefix("Input should be ").lower())


def _spell(value) -> str:
    if isinstance(value, dict):
        return "a section with keys"
    return "null" if value is None else repr(value)


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number, as YAML 1.2 does, and refuses a key stated twice."""

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                fault = f"found the key {key!r}, expected a name"
                raise yaml.constructor.ConstructorError(None, None, fault, key_node.start_mark)
            if key in keys:
                fault = f"found the key {key!r} twice"
                raise yaml.constructor.ConstructorError(None, None, fault, key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _parse(text: str, source: str):
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"found broken YAML in {source}{line}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"found broken YAML in {source}: {' '.join(str(error).split())}") from None
