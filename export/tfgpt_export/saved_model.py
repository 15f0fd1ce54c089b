"""The TensorFlow SavedModel. TensorFlow alone loads it: it needs no Keras, no tfgpt, no further operators.

    serving_default   input_ids, attention_mask [batch, length]                       -> logits
    cached_step       input_ids [batch, new], attention_mask [batch, past + new],
                      past_keys, past_values [layers, batch, kv_heads, past, head_dim]
                      -> logits, present_keys, present_values [..., past + new, head_dim]
    generate          input_ids, attention_mask [batch, length], options  -> token_ids, lengths
    generate_text     texts [batch], options                              -> texts
    encode            texts [batch]                                       -> input_ids, attention_mask
    decode            token_ids [batch, new], lengths [batch]             -> texts

Ids and masks are int64, logits and caches float32, texts UTF-8. Zeros of the mask may stand anywhere, and
positions follow from it. The options are those of `RowOptions`: one number for each row, or a single one for
all. A server that knows `SignatureDef.defaults` may leave them out; `tf.saved_model.load` wants every one.

The last three are there when a tokenizer is, and one that the graph can follow (`tfgpt.tokenizers.graph`).
All signatures read one copy of the weights.
"""

from pathlib import Path

import tensorflow as tf

from tfgpt.errors import InputError
from tfgpt.layers.cache import GrowingCache
from tfgpt.models.causal_lm import CausalLM
from tfgpt.tokenizers.graph import GraphTokenizer
from tfgpt.tokenizers.graph_added_tokens import valid_utf8
from tfgpt.tokenizers.loading import has_tokenizer
from tfgpt_export.graph_generation import GraphGenerator, default_options
from tfgpt_export.graph_sampling import RowOptions

_TEXTS = tf.TensorSpec([None], tf.string, "texts")
_OPTIONS = RowOptions(
    *(
        tf.TensorSpec([None], tf.float32 if name in ("temperature", "top_p") else tf.int64, name)
        for name in RowOptions._fields
    )
)


def graph_tokenizer(model_dir: Path) -> tuple[GraphTokenizer | None, str | None]:
    """The tokenizer of a model directory for the graph, or why there is none."""
    if not has_tokenizer(model_dir):
        return None, "found no tokenizer beside the model"
    try:
        return GraphTokenizer.from_pretrained(model_dir), None
    except InputError as refused:
        return None, str(refused)


def write_saved_model(model: CausalLM, tokenizer: GraphTokenizer | None, path: Path) -> None:
    """Writes the SavedModel of a float32 model, with the signatures of texts where there is a tokenizer."""
    holder = tf.Module(name="model")
    holder.weights = [variable.value for variable in model.variables]
    generator = GraphGenerator(model)
    signatures = {
        "serving_default": _function(_logits(model), *_table_specs("input_ids", "attention_mask")),
        "cached_step": _function(_cached_step(model), *_step_specs(model)),
        "generate": _generate(model, generator),
    }
    if tokenizer is not None:
        signatures |= {
            "generate_text": _generate_text(model, generator, tokenizer),
            "encode": _function(_encode(tokenizer, generator.padding_id), _TEXTS),
            "decode": _function(_decode(tokenizer), *_table_specs("token_ids"), _row_spec("lengths")),
        }
    tf.saved_model.save(holder, str(path), signatures=signatures)


def _function(function, *signature):
    return tf.function(function, input_signature=signature, autograph=False)


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


def _generate(model: CausalLM, generator: GraphGenerator):
    defaults = default_options(model)

    def generate(input_ids, attention_mask, options=defaults):
        token_ids, lengths = generator(input_ids, attention_mask, options)
        return {"token_ids": token_ids, "lengths": lengths}

    return _function(generate, *_table_specs("input_ids", "attention_mask"), _OPTIONS)


def _generate_text(model: CausalLM, generator: GraphGenerator, tokenizer: GraphTokenizer):
    defaults = default_options(model)

    def generate_text(texts, options=defaults):
        input_ids, attention_mask = _encoded(tokenizer, texts, generator.padding_id)
        token_ids, lengths = generator(input_ids, attention_mask, options)
        newest = tf.gather(token_ids, lengths - 1, batch_dims=1)
        ended = tf.cast(newest == options.end_of_text_id, tf.int64)  # which is no part of the text
        return {"texts": _decoded(tokenizer, token_ids, lengths - ended)}

    return _function(generate_text, _TEXTS, _OPTIONS)


def _encode(tokenizer: GraphTokenizer, padding_id: int):
    def encode(texts):
        input_ids, attention_mask = _encoded(tokenizer, texts, padding_id)
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    return encode


def _decode(tokenizer: GraphTokenizer):
    def decode(token_ids, lengths):
        return {"texts": _decoded(tokenizer, token_ids, lengths)}

    return decode


def _encoded(tokenizer: GraphTokenizer, texts, padding_id: int) -> tuple[tf.Tensor, tf.Tensor]:
    """string `[batch]` -> ids and mask, int64 `[batch, length]`, padded on the right."""
    token_ids, mask = tokenizer.encode_padded(texts, -1, padding_id)
    return tf.cast(token_ids, tf.int64), tf.cast(mask, tf.int64)


def _decoded(tokenizer: GraphTokenizer, token_ids, lengths) -> tf.Tensor:
    """int64 `[batch, new]`, `[batch]` -> string `[batch]`; what is no UTF-8 becomes U+FFFD, as in Python."""
    ragged = tf.RaggedTensor.from_tensor(tf.cast(token_ids, tf.int32), lengths=lengths)
    return valid_utf8(tokenizer.decode(ragged))


def _row_spec(name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None], tf.int64, name)


def _table_specs(*names: str) -> list[tf.TensorSpec]:
    return [tf.TensorSpec([None, None], tf.int64, name) for name in names]


def _step_specs(model: CausalLM) -> list[tf.TensorSpec]:
    config = model.config
    shape = [config.num_layers, None, config.num_key_value_heads, None, config.head_dim]
    caches = [tf.TensorSpec(shape, tf.float32, name) for name in ("past_keys", "past_values")]
    return [*_table_specs("input_ids", "attention_mask"), *caches]
