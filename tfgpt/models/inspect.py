"""Looking inside a model: attention maps and hidden states, for plots and for finding where two models part.

Nothing in the model is changed: the named operations are replaced while it runs (`tfgpt.ops.replaced`).
"""

import keras
import numpy as np

from tfgpt import ops
from tfgpt.errors import InputError


def attention_maps(model, token_ids, mask=None) -> list[np.ndarray]:
    """Where every head looks.

    Args:
        model: a `CausalLM`.
        token_ids: int `[batch, length]`.
        mask: int or bool `[batch, length]`, 1 for real tokens; `None`: all are.

    Returns:
        for every layer the probabilities, float32 `[batch, heads, query, key]`. Rows of real tokens sum to 1
        (with attention sinks to less) and are 0 at masked keys; those of left padding, which has nothing to
        look at, mean nothing.

    Raises:
        InputError: `token_ids` is not of two dimensions.
    """
    maps = []

    def record(probabilities):
        maps.append(_float32(probabilities))
        return probabilities

    def attention(qkv, inputs, past, spec, sinks=None, dropout=None):
        # Dropout is off here, and its place is where the probabilities pass by.
        return ops.attention.definition(qkv, inputs, past, spec, sinks, record)

    with ops.replaced({"attention": attention}):
        model(_checked(token_ids), mask=mask)
    return maps


def hidden_states(model, token_ids, mask=None) -> dict[str, np.ndarray]:
    """What flows between the parts of a model, by name, in the order of computation.

    Args:
        model: a `CausalLM`.
        token_ids: int `[batch, length]`.
        mask: int or bool `[batch, length]`, 1 for real tokens; `None`: all are.

    Returns:
        float32 `[batch, length, hidden]` for "embedding" (what enters the first block), "block_0", "block_1",
        ... and "final_norm" (where the model has one); then "logits" `[batch, length, vocabulary]`.

    Raises:
        InputError: `token_ids` is not of two dimensions.
    """
    decoder, states = model.decoder, {}
    parts = [*decoder.blocks, *([] if decoder.final_norm is None else [decoder.final_norm])]

    def recording(layer, call):
        def run(x, *args, **kwargs):
            states.setdefault("embedding", _float32(x))
            output = call(x, *args, **kwargs)
            states[layer.name] = _float32(output[0] if isinstance(output, tuple) else output)
            return output

        return run

    for layer in parts:
        # On the instance, so that other models are not touched; removed below.
        object.__setattr__(layer, "call", recording(layer, layer.call))
    try:
        states["logits"] = _float32(model(_checked(token_ids), mask=mask))
    finally:
        for layer in parts:
            object.__delattr__(layer, "call")
    return states


def _checked(token_ids) -> np.ndarray:
    token_ids = np.asarray(token_ids).astype(np.int32)  # shards hold uint16, which tables do not take
    if token_ids.ndim != 2:
        raise InputError(f"found token ids of shape {list(token_ids.shape)}, expected [batch, length]")
    return token_ids


def _float32(x) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")))
