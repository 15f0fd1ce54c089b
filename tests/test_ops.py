"""The named operations: their numbers against other implementations, and their replacement."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt import ops
from tfgpt.layers.cache import FixedPast, GrowingPast, Past

TOLERANCE = {"rtol": 0, "atol": 1e-6}


def array(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def test_linear_and_tied_linear(rng):
    x, kernel, bias = array(rng, 2, 3, 4), array(rng, 4, 5), array(rng, 5)
    np.testing.assert_allclose(ops.linear(x, kernel, bias), x @ kernel + bias, **TOLERANCE)
    np.testing.assert_allclose(ops.linear(x, kernel), x @ kernel, **TOLERANCE)
    np.testing.assert_allclose(ops.tied_linear(x, kernel.T), x @ kernel, **TOLERANCE)


def test_lookup(rng):
    table, indices = array(rng, 7, 3), np.array([[0, 6], [2, 2]])
    np.testing.assert_array_equal(ops.lookup(table, indices), table[indices])


def test_layer_norm_is_that_of_keras(rng):
    x, scale, offset = 5 + 3 * array(rng, 4, 6), array(rng, 6), array(rng, 6)
    layer = keras.layers.LayerNormalization(epsilon=1e-3)
    layer.build(x.shape)
    layer.set_weights([scale, offset])
    np.testing.assert_allclose(ops.layer_norm(x, scale, offset, 1e-3), layer(x), rtol=0, atol=5e-6)


def test_rms_norm_by_hand():
    x = np.array([[3.0, 4.0]], "float32")  # mean square 12.5
    expected = [[3 / math.sqrt(13), 2 * 4 / math.sqrt(13)]]
    np.testing.assert_allclose(ops.rms_norm(x, np.array([1.0, 2.0], "float32"), 0.5), expected, **TOLERANCE)


def test_gelu_by_hand():
    # x * Phi(x) from a table of the normal distribution, and Hendrycks and Gimpel's approximation.
    x = np.array([-1.0, 0.0, 1.0, 2.0], "float32")
    np.testing.assert_allclose(
        ops.gelu(x, approximate=False), [-0.15865525, 0.0, 0.84134475, 1.9544997], **TOLERANCE
    )
    np.testing.assert_allclose(
        ops.gelu(x, approximate=True), [-0.15880801, 0.0, 0.84119199, 1.9545977], **TOLERANCE
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_norms_of_half_precision_sum_in_float32(dtype):
    """The mean square of 300 in float16 is infinite, and 1 of 4096 is lost in bfloat16."""
    x = tf.cast(np.concatenate([np.full((1, 4095), 300.0), [[-300.0]]], axis=1), dtype)
    one = tf.ones([4096], x.dtype)
    assert ops.rms_norm(x, one, 1e-5).dtype == x.dtype
    np.testing.assert_allclose(tf.cast(ops.rms_norm(x, one, 1e-5)[0, 0], "float32"), 1.0, rtol=0, atol=0.01)
    normed = tf.cast(ops.layer_norm(x, one, one * 0, 1e-5), "float32")
    assert float(normed[0, -1]) == pytest.approx(-math.sqrt(4095), rel=0.01)


@pytest.mark.parametrize("window", [None, 1, 3])
def test_masks_by_the_definition(window):
    positions = np.broadcast_to(np.arange(4), (2, 4))
    padding = np.array([[1] * 6, [0, 1, 1, 1, 1, 1]])
    cached = np.zeros((2, 1, 2, 1), "float32")
    inputs = ops.attention_inputs(positions + 2, padding, GrowingPast(cached, cached), (window,), None)
    visible = np.asarray(inputs.masks[ops.mask_name(window)])
    assert visible.shape == (2, 1, 4, 6) and inputs.rotation is None
    for row in range(2):
        for query in range(4):
            for key in range(6):
                behind = (query + 2) - key
                expected = padding[row, key] and 0 <= behind < (window or 100)
                assert visible[row, 0, query, key] == bool(expected)


def test_attention_is_that_of_tensorflow_over_any_past(rng):
    """Keras's own attention over all tokens, against ours over the last ones with the rest in a cache."""
    spec = ops.AttentionSpec(num_heads=4, num_key_value_heads=2, head_dim=3, scale=3**-0.5)
    qkv = array(rng, 2, 6, (4 + 2 * 2) * 3)
    heads = qkv.reshape(2, 6, 8, 3)
    keys, values = (np.repeat(heads[:, :, a:b], 2, axis=2) for a, b in ((4, 6), (6, 8)))
    expected = keras.ops.dot_product_attention(heads[:, :, :4], keys, values, is_causal=True)
    expected = np.asarray(expected).reshape(2, 6, 12)
    for past in (Past(), *pasts(heads)):
        start = 0 if isinstance(past, Past) else 2
        positions = np.broadcast_to(np.arange(start, 6), (2, 6 - start))
        inputs = ops.attention_inputs(positions, None, past, (None,), None)
        context, _ = ops.attention(qkv[:, start:], inputs, past, spec)
        np.testing.assert_allclose(context, expected[:, start:], **TOLERANCE)


def pasts(heads):
    """The first two tokens in a growing cache, and in a fixed one of 9 slots with rubbish in the others."""
    key, value = (heads[:, :2, a:b].transpose(0, 2, 1, 3) for a, b in ((4, 6), (6, 8)))
    rubbish = np.full((2, 2, 7, 3), 1e3, "float32")
    yield GrowingPast(key, value)
    yield FixedPast(*(np.concatenate([each, rubbish], axis=2) for each in (key, value)), np.int32(2))


def test_a_cache_past_keeps_what_was_written(rng):
    heads = array(rng, 2, 6, 8, 3)
    new = array(rng, 2, 2, 3, 3)
    growing, fixed = (past.append(new, -new)[2] for past in pasts(heads))
    assert growing.num_slots_before == 5 and int(fixed.num_slots_before) == 5
    np.testing.assert_array_equal(growing.key[:, :, 2:], new)
    np.testing.assert_array_equal(fixed.key[:, :, :5], growing.key)
    np.testing.assert_array_equal(fixed.value[:, :, :5], growing.value)


def test_dropout_sees_the_probabilities(rng):
    spec = ops.AttentionSpec(2, 2, 3, 1.0)
    seen = []
    inputs = ops.attention_inputs(np.zeros((1, 4), int), None, Past(), (None,), None)
    qkv = array(rng, 1, 4, 18)
    context, _ = ops.attention(qkv, inputs, Past(), spec, dropout=lambda p: seen.append(p) or p * 0)
    assert seen[0].shape == (1, 2, 4, 4)
    np.testing.assert_allclose(np.asarray(seen[0]).sum(-1), 1, **TOLERANCE)
    assert np.abs(np.asarray(context)).max() == 0


def test_replacements_nest_and_end(rng):
    x, kernel = array(rng, 2, 2), array(rng, 2, 2)
    plain = np.asarray(ops.linear(x, kernel))
    with ops.replaced({"linear": lambda x, kernel, bias=None: "outer"}):
        with ops.replaced({"linear": lambda x, kernel, bias=None: "inner", "gelu": lambda *_: "gelu"}):
            assert (ops.linear(x, kernel), ops.gelu(x, True)) == ("inner", "gelu")
        assert ops.linear(x, kernel) == "outer" and not isinstance(ops.gelu(x, True), str)
        np.testing.assert_array_equal(ops.linear.definition(x, kernel), plain)
    np.testing.assert_array_equal(ops.linear(x, kernel), plain)
    with pytest.raises(ZeroDivisionError), ops.replaced({"linear": lambda *_: 1 / 0}):
        ops.linear(x, kernel)
    np.testing.assert_array_equal(ops.linear(x, kernel), plain)


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="'linaer' is not a named operation; there are linear"):
        ops.replaced({"linaer": None}).__enter__()
