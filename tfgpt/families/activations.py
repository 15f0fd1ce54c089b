"""transformers' names of the nonlinearities, and ours. Loads no TensorFlow."""

from collections.abc import Mapping

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError, nearest

# transformers' activations.py: names with the same function. The first name of each is the one written.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
}


def read_activation(values: dict, key: str, names: Mapping[str, str] = ACTIVATIONS) -> str:
    """The value of `ModelConfig.activation` that config.json states under `key`."""
    name = values[key]
    if not isinstance(name, str) or name not in names:
        raise InputError(f"{key} is {name!r}{nearest(str(name), names)}")
    return names[name]


def write_activation(config: ModelConfig, names: Mapping[str, str] = ACTIVATIONS) -> str:
    """The inverse; `InputError` for a function that the family's config.json cannot name."""
    for theirs, ours in names.items():
        if ours == config.activation.value:
            return theirs
    raise InputError(
        f"activation is {config.activation.value!r}, but a {config.family} config.json can only say "
        f"{', '.join(map(repr, dict.fromkeys(names.values())))}: use another family for this model"
    )
