"""Lets `keras.models.load_model` find tfgpt's models after a plain `import tfgpt`. Loads no Keras.

Keras finds a saved class by a name that was registered when the class was defined. tfgpt defines its models
only when they are used, so this module registers a stand-in instead: at once when Keras is loaded already,
otherwise as soon as it has been imported.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder

# Registered name -> module of the class.
_SAVED = {"tfgpt>CausalLM": "tfgpt.models.causal_lm"}


def announce() -> None:
    """Makes the stand-ins known to Keras, now or when it is imported."""
    if "keras" in sys.modules:
        _register()
    elif not any(isinstance(finder, _KerasImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasImport())


class _KerasImport(MetaPathFinder):
    """Sees the import of Keras once, and registers the stand-ins when it is done."""

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _register()

        spec.loader.exec_module = exec_module
        return spec


def _register() -> None:
    from keras import saving

    registered = saving.get_custom_objects()
    for name, module in _SAVED.items():
        registered.setdefault(name, _stand_in(name, module))


def _stand_in(name: str, module: str) -> type:
    class StandIn:
        @classmethod
        def from_config(cls, config):
            model_class = getattr(importlib.import_module(module), name.split(">")[1])
            return model_class.from_config(config)

    return StandIn
