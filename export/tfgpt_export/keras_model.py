"""The Keras model of an export, loaded once for all stages and checks that need it."""

from pathlib import Path

from tfgpt.models.causal_lm import CausalLM


class KerasModel:
    """`keras_model()` is the `CausalLM` of a model directory in float32, loaded by the first call."""

    def __init__(self, model_dir: Path):
        self._model_dir = model_dir
        self._model: CausalLM | None = None

    def __call__(self) -> CausalLM:
        if self._model is None:
            self._model = CausalLM.from_pretrained(self._model_dir, dtype="float32")
        return self._model
