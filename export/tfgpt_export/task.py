"""What a model is for: how it is made, what its graph is called with, and what that gives.

Tracing, converting and writing know of a model what its `Task` says, and so do both ways of rounding weights.
The rest of `pipeline.py` is a language model's: calibration, the engine, the SavedModel, what is packaged,
what is compared. Before `half.py` may have a head that sums over tokens, its sums must stay float32 there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras

from tfgpt.config import ModelConfig
from tfgpt.layers.cache import GrowingCache
from tfgpt.models.causal_lm import CausalLM
from tfgpt_export import signature
from tfgpt_export.signature import Tensor


@dataclass(frozen=True)
class Task:
    """A decoder with one kind of head.

    Attributes:
        make: (config, dtype=, name=) -> the Keras model, with `named_weights`.
        inputs, outputs: config -> the contract of its graph, in order.
        call: (model, *inputs) -> the outputs, as in `training=False`. It gives the decoder a mask, which the
            lowered attention reads; what has no cache gives none.
        head_operators: how many the head has of the operators that named operations become.
    """

    make: Callable[..., keras.Model]
    inputs: Callable[[ModelConfig], tuple[Tensor, ...]]
    outputs: Callable[[ModelConfig], tuple[Tensor, ...]]
    call: Callable[..., list]
    head_operators: Mapping[str, int]


def _call_language_model(model: CausalLM, token_ids, mask, positions, *pasts) -> list:
    cache = GrowingCache(tuple(pasts[0::2]), tuple(pasts[1::2]))
    logits, present = model(token_ids, positions=positions, mask=mask, cache=cache, training=False)
    pairs = zip(present.keys, present.values, strict=True)
    return [logits, *(tensor for pair in pairs for tensor in pair)]


LANGUAGE_MODEL = Task(CausalLM, signature.inputs, signature.outputs, _call_language_model, {"MatMul": 1})
