"""One harness for any layer: what every layer of the project must be able to do.

A layer is given as (a function that makes it, the shape of its inputs after the batch, how it is called).
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt import ops
from tfgpt.config import ModelConfig
from tfgpt.layers.attention import SelfAttention
from tfgpt.layers.block import make_block
from tfgpt.layers.cache import Past
from tfgpt.layers.embeddings import Embedding
from tfgpt.layers.linear import Linear
from tfgpt.layers.mlp import MLP
from tfgpt.layers.norms import LayerNorm, RMSNorm
from tfgpt.models.decoder import Decoder

WIDTH = 8
CONFIG = ModelConfig(13, 16, 2, 2, WIDTH, dropout=0.2, attention_pattern=("local", "global"), window=3)
WIRINGS = ("pre_norm", "post_norm", "parallel_one_norm", "parallel_two_norms")


def apply_plain(layer, x):
    return layer(x)


def apply_attending(layer, x, training=None):
    """Layers that attend take the shared inputs and a past, and return a pair."""
    positions = tf.broadcast_to(tf.range(tf.shape(x)[1])[None], tf.shape(x)[:2])
    inputs = ops.attention_inputs(positions, None, Past(), (None, 3), None)
    return layer(x, inputs, Past(), training=training)[0]


def apply_decoder(layer, x):
    return layer(x)[0]


LAYERS = {
    "linear": (lambda **own: Linear(5, **own), apply_plain),
    "linear_without_bias": (lambda **own: Linear(5, use_bias=False, **own), apply_plain),
    "layer_norm": (lambda **own: LayerNorm(**own), apply_plain),
    "rms_norm": (lambda **own: RMSNorm(**own), apply_plain),
    "mlp": (lambda **own: MLP(CONFIG, **own), apply_plain),
    "attention": (lambda **own: SelfAttention(CONFIG, 0, **own), apply_attending),
    "grouped_attention": (
        lambda **own: SelfAttention(CONFIG.replace(num_key_value_heads=1), 1, **own),
        apply_attending,
    ),
    **{
        wiring: (
            lambda wiring=wiring, **own: make_block(CONFIG.replace(residual=wiring), 1, **own),
            apply_attending,
        )
        for wiring in WIRINGS
    },
    "embedding": (lambda **own: Embedding(13, WIDTH, **own), apply_plain),
    "decoder": (lambda **own: Decoder(CONFIG, **own), apply_decoder),
}
SIMPLE = ("linear", "linear_without_bias", "layer_norm", "rms_norm", "embedding")


@pytest.fixture(params=LAYERS)
def case(request):
    return request.param, *LAYERS[request.param]


def example(name, batch_size=2, length=5):
    """Inputs of a layer: token ids, or hidden states."""
    rng = np.random.default_rng(4)
    if name in ("embedding", "decoder"):
        return rng.integers(0, 13, (batch_size, length)).astype("int32")
    return rng.normal(size=(batch_size, length, WIDTH)).astype("float32")


def built(name, make, **own):
    layer = make(**own)
    layer.build((None, None) if name in ("embedding", "decoder") else (None, None, WIDTH))
    return layer


def test_any_length_and_causality(case):
    """A longer text leaves the beginning's output as it was."""
    name, make, apply = case
    layer, x = built(name, make), example(name)
    whole = np.asarray(apply(layer, x))
    for length in (1, 3):
        np.testing.assert_allclose(apply(layer, x[:, :length]), whole[:, :length], rtol=0, atol=1e-5)


def test_rows_do_not_mix(case):
    name, make, apply = case
    layer, x = built(name, make), example(name)
    np.testing.assert_allclose(apply(layer, x[1:]), np.asarray(apply(layer, x))[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_dtype_policies(case, policy):
    name, make, apply = case
    layer, exact = built(name, make, dtype=policy), built(name, make)
    for one, other in zip(layer.trainable_variables, exact.trainable_variables, strict=True):
        assert one.dtype == layer.variable_dtype
        other.assign(tf.cast(one.value, "float32"))
    y = apply(layer, example(name))
    assert y.dtype == layer.compute_dtype
    expected = np.asarray(apply(exact, example(name)))
    np.testing.assert_allclose(tf.cast(y, "float32"), expected, rtol=0, atol=0.1)


def test_gradients_are_finite_and_reach_every_weight(case):
    name, make, apply = case
    layer = built(name, make)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(apply(layer, example(name)) ** 3)
    gradients = tape.gradient(loss, [variable.value for variable in layer.trainable_variables])
    for variable, gradient in zip(layer.trainable_variables, gradients, strict=True):
        values = np.asarray(tf.convert_to_tensor(gradient))
        assert np.isfinite(values).all(), variable.path
        assert np.abs(values).max() > 0, variable.path


@pytest.mark.parametrize("name", ["layer_norm", "grouped_attention", "post_norm", "decoder"])
def test_xla_and_tf_data(name):
    """Compiled, and within a tf.data pipeline, the numbers are those of the eager layer."""
    make, apply = LAYERS[name]
    layer, x = built(name, make), example(name)
    expected = np.asarray(apply(layer, x))
    compiled = tf.function(lambda x: apply(layer, x), jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(x), expected, rtol=0, atol=1e-5)
    dataset = tf.data.Dataset.from_tensors(x).map(lambda x: apply(layer, x))
    np.testing.assert_allclose(next(iter(dataset)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SIMPLE)
def test_config_round_trips(name):
    layer = LAYERS[name][0](name="mine", dtype="mixed_bfloat16")
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.name == "mine" and again.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("name", [*SIMPLE, "mlp"])
def test_output_shape_is_stated(name):
    layer = built(name, LAYERS[name][0])
    x = example(name)
    assert tuple(layer.compute_output_shape(x.shape)) == tuple(layer(x).shape)


def test_weights_are_made_by_build_alone(case):
    """Or a model made inside `strategy.scope()` would grow variables outside of it."""
    name, make, apply = case
    layer = built(name, make)
    before = [variable.path for variable in layer.variables]
    apply(layer, example(name))
    assert [variable.path for variable in layer.variables] == before


@pytest.mark.parametrize("name", [*WIRINGS, "attention"])
def test_dropout_acts_in_training_only_within_blocks(name):
    make, apply = LAYERS[name]
    layer, x = built(name, make), example(name)
    layer.set_weights([np.random.default_rng(1).normal(0, 0.5, w.shape) for w in layer.get_weights()])
    keras.utils.set_random_seed(1)
    outputs = [np.asarray(apply(layer, x, training=True)) for _ in range(2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    np.testing.assert_array_equal(apply(layer, x, training=False), apply(layer, x))
