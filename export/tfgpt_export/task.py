"""What a model is for: how it is made, what its graph is called with, and what that gives.

Tracing, converting, writing and quantizing know of a model what its `Task` says and no more. What follows
them in `pipeline.py` (the cache, the engine, generation, what is compared) is a language model's.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
        call: (model, *inputs) -> the outputs. It gives the decoder a mask: the lowered attention reads it.
        head_products: matrix products that the head has.
    """

    make: Callable
    inputs: Callable[[ModelConfig], tuple[Tensor, ...]]
    outputs: Callable[[ModelConfig], tuple[Tensor, ...]]
    call: Callable[..., list]
    head_products: int


def _call_language_model(model: CausalLM, token_ids, mask, positions, *pasts) -> list:
    cache = GrowingCache(tuple(pasts[0::2]), tuple(pasts[1::2]))
    logits, present = model(token_ids, positions=positions, mask=mask, cache=cache, training=False)
    pairs = zip(present.keys, present.values, strict=True)
    return [logits, *(tensor for pair in pairs for tensor in pair)]


LANGUAGE_MODEL = Task(CausalLM, signature.inputs, signature.outputs, _call_language_model, head_products=1)
