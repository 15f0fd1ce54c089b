"""What a family's file states, and the two directions of its config.json. Loads no TensorFlow."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tfgpt.checkpoints.rules import Rule
from tfgpt.config import ModelConfig, Positions
from tfgpt.errors import InputError, nearest

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


class Published(NamedTuple):
    """Where the weights of a size are, and under which licence (SPDX, or as the repository words it)."""

    repository: str
    licence: str


@dataclass(frozen=True)
class Family:
    """The facts of one family.

    Args:
        name: the key in the registry and in `ModelConfig.family`.
        title: as people write it.
        paper, reference: where the facts come from.
        model_type: the `model_type` of its config.json.
        architecture: the class name that config.json lists for a language model.
        defaults: what config.json means when it leaves a key out (the reference's own defaults).
        fields: config.json key -> ModelConfig field, one to one.
        aliases: config.json key -> the key of `fields` that the reference takes it for (transformers'
            `attribute_map`).
        required: keys without which a config.json does not say what the model is.
        sizes: size name -> ModelConfig fields.
        published: size name -> the hub's repository of its weights; a size without weights has no entry.
        weights: the weight table of a config.
        prefix: what a language model's tensors carry before the names in the table.
        head: how the names of the head begin, which stands outside the prefix.
        ignored: regular expressions of tensors that are derived, not learned.
        read_particulars: config.json values -> the ModelConfig fields that are not one to one.
        write_particulars: the inverse.
        served_as: the `model_type` under which other runtimes load the family's exported graphs, where they
            do not know its own. It names inputs and outputs to them, which are the same for every family.
    """

    name: str
    title: str
    paper: str
    reference: str
    model_type: str
    architecture: str
    defaults: dict[str, Any]
    fields: dict[str, str]
    required: tuple[str, ...]
    sizes: dict[str, dict[str, Any]]
    published: dict[str, Published]
    weights: Callable[[ModelConfig], tuple[Rule, ...]]
    prefix: str = ""
    head: str = "lm_head."
    ignored: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    read_particulars: Callable[[dict], dict] = field(default=lambda values: {})
    write_particulars: Callable[[ModelConfig], dict] = field(default=lambda config: {})
    served_as: str | None = None

    def read_config(self, values: dict[str, Any]) -> ModelConfig:
        """The ModelConfig of a config.json's values.

        Raises:
            InputError: a key is missing, two that mean the same differ, or a value is not of this family.
        """
        values = self._without_aliases(values)
        for key in self.required:
            if key not in values:
                raise InputError(
                    f"config.json has no {key!r}, which a {self.title} model needs: found "
                    f"{', '.join(map(repr, sorted(values))) or 'no key at all'}"
                )
        values = {**self.defaults, **values}
        fields = {ours: values[theirs] for theirs, ours in self.fields.items() if theirs in values}
        for name in _SPECIAL_TOKENS:
            fields[name] = _within_vocabulary(fields.get(name), fields["vocabulary_size"])
        try:
            return ModelConfig(family=self.name, **fields, **self.read_particulars(values))
        except InputError as error:
            theirs = {ours: key for key, ours in self.fields.items()}
            word = str(error).split(" ", 1)[0]
            hint = f" ({word} is {theirs[word]!r} in config.json)" if word in theirs else ""
            raise InputError(f"config.json: {error}{hint}") from None

    def _without_aliases(self, values: dict[str, Any]) -> dict[str, Any]:
        """What is stated under other names under `fields`' own, too; null states nothing."""
        stated = {alias: key for alias, key in self.aliases.items() if values.get(alias) is not None}
        for alias, key in stated.items():
            if values.get(key) is not None and not is_same(values[key], values[alias]):
                raise InputError(
                    f"config.json has {key} {values[key]!r} and {alias} {values[alias]!r}, which are two "
                    "names of one number: remove the wrong one"
                )
        return {**values, **{key: values[alias] for alias, key in stated.items()}}

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """The config.json values of a ModelConfig, as the reference implementation reads them.

        Raises:
            InputError: the model has a choice that this family's config.json cannot state.
        """
        values = {"model_type": self.model_type, "architectures": [self.architecture]}
        values.update({theirs: getattr(config, ours) for theirs, ours in self.fields.items()})
        values.update(self.write_particulars(config))
        self._check_stated(config, values)
        return values

    def published_name(self, name: str) -> str:
        """The name in files of a tensor of the table."""
        return name if name.startswith(self.head) else self.prefix + name

    def _check_stated(self, config: ModelConfig, values: dict[str, Any]) -> None:
        """A checkpoint that reads back as another model would be silently wrong."""
        ours, read = _meaning(config), _meaning(self.read_config(values))
        for name in ours:
            if ours[name] != read.get(name):
                raise InputError(
                    f"{name} is {ours[name]!r}, but a {self.title} config.json can only say "
                    f"{read.get(name)!r}: use another family for this model"
                )

    def config_of(self, size: str, **changes) -> ModelConfig:
        """The ModelConfig of a published size.

        Raises:
            InputError: there is no such size; the message names the nearest.
        """
        if size not in self.sizes:
            raise InputError(f"{self.title} has no size {size!r}{nearest(size, self.sizes)}")
        return ModelConfig.from_dict({"family": self.name, **self.sizes[size], **changes})


def is_same(one, other) -> bool:
    """Whether two values of JSON are equal, true and 1 or 1 and 1.0 not."""
    return type(one) is type(other) and one == other


def _meaning(config: ModelConfig) -> dict[str, Any]:
    """The config's values with those written out that can be said in several ways, or are not used."""
    values = config.to_dict()
    residual, attention, embedding = config.rates
    values.update(dropout=residual, attention_dropout=attention, embedding_dropout=embedding)
    values["attention_pattern"] = [config.attention_of(layer).value for layer in range(config.num_layers)]
    values["window"] = next(filter(None, map(config.window_of, range(config.num_layers))), None)
    if config.positions is Positions.LEARNED:
        del values["rotary_dim"], values["rotary_base"]
    return values


def _within_vocabulary(token, vocabulary_size):
    """`None` for an id that the vocabulary does not have.

    transformers' GPT2Config leaves bos and eos at 50256 whatever the vocabulary is, and some configs write -1
    for none: such a token never occurs, so it is no reason to refuse the model.
    """
    plain = isinstance(token, int) and isinstance(vocabulary_size, int) and not isinstance(token, bool)
    return None if plain and not 0 <= token < vocabulary_size else token
