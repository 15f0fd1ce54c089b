"""The TensorFlow SavedModel: signatures for logits and for one cached step. TensorFlow alone loads it.

    serving_default   input_ids [batch, length], attention_mask [batch, length]       -> logits
    cached_step       input_ids [batch, new], attention_mask [batch, past + new],
                      past_keys, past_values [layers, batch, kv_heads, past, head_dim]
                      -> logits, present_keys, present_values [..., past + new, head_dim]

Ids and masks are int64, logits and caches float32. Positions follow from the mask.
"""

import contextlib
import io
from pathlib import Path

import keras
import tensorflow as tf

from tfgpt.layers.cache import GrowingCache
from tfgpt.models.causal_lm import CausalLM


def write_saved_model(model_dir: Path, path: Path) -> None:
    """Loads a model directory in float32 and writes its SavedModel to `path`."""
    model = CausalLM.from_pretrained(model_dir, dtype="float32")
    # The endpoints bring the variables they use; tracking the model as well would store each twice.
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serving_default", _logits(model), input_signature=_token_specs())
    archive.add_endpoint("cached_step", _cached_step(model), input_signature=_step_specs(model))
    with contextlib.redirect_stdout(io.StringIO()):  # Keras lists the endpoints
        archive.write_out(str(path), verbose=False)


def _logits(model: CausalLM):
    def logits(input_ids, attention_mask):
        return {"logits": model(input_ids, mask=attention_mask, training=False)}

    return logits


def _cached_step(model: CausalLM):
    def cached_step(input_ids, attention_mask, past_keys, past_values):
        cache = GrowingCache(tuple(tf.unstack(past_keys)), tuple(tf.unstack(past_values)))
        logits, present = model(input_ids, mask=attention_mask, cache=cache, training=False)
        return {
            "logits": logits,
            "present_keys": tf.stack(present.keys),
            "present_values": tf.stack(present.values),
        }

    return cached_step


def _token_specs() -> list[tf.TensorSpec]:
    return [tf.TensorSpec([None, None], tf.int64, name) for name in ("input_ids", "attention_mask")]


def _step_specs(model: CausalLM) -> list[tf.TensorSpec]:
    config = model.config
    shape = [config.num_layers, None, config.num_key_value_heads, None, config.head_dim]
    caches = [tf.TensorSpec(shape, tf.float32, name) for name in ("past_keys", "past_values")]
    return [*_token_specs(), *caches]
