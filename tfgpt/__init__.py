"""tfgpt: train a GPT in Keras, ship it anywhere.

Public names load on first use, so `import tfgpt` itself loads neither TensorFlow nor Keras.
"""

from importlib import import_module

from tfgpt._version import __version__

_PUBLIC = {
    "ModelConfig": "tfgpt.config",
    "InputError": "tfgpt.errors",
    "CausalLM": "tfgpt.models.causal_lm",
    "BytePairTokenizer": "tfgpt.tokenizers.byte_pair",
    "GenerationOptions": "tfgpt.generation.options",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tfgpt' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
