"""CausalLM as a Keras model: plain compile, fit, evaluate, predict; dtype policies; dynamic shapes."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt

CONFIG = tfgpt.ModelConfig(31, 16, 2, 2, 16)
# Unit roundoff, as a share of logits of order 1: 8 bits of significand, or 11.
ROUNDING = {"mixed_bfloat16": 2.0**-8, "bfloat16": 2.0**-8, "mixed_float16": 2.0**-11, "float16": 2.0**-11}


def counting(batch_size=8, length=8):
    """Texts that count upwards: each next token is certain."""
    start = np.arange(batch_size)[:, None]
    text = (start + np.arange(length + 1)) % 31
    return text[:, :-1].astype("int32"), text[:, 1:].astype("int32")


@pytest.mark.parametrize("loss", [None, keras.losses.SparseCategoricalCrossentropy(from_logits=True)])
def test_fit_evaluate_predict(loss):
    model = tfgpt.CausalLM(CONFIG)
    x, y = counting()
    model.compile(keras.optimizers.Adam(0.02), loss=loss, metrics=["accuracy"])
    before = model.evaluate(x, y, verbose=0, return_dict=True)
    logits = np.asarray(model(x), np.float64)
    log_sums = np.log(np.exp(logits).sum(axis=-1))
    by_hand = (log_sums - np.take_along_axis(logits, y[..., None], -1)[..., 0]).mean()
    assert before["loss"] == pytest.approx(by_hand, rel=1e-5)
    assert before["loss"] == pytest.approx(math.log(31), rel=0.05)
    history = model.fit(x, y, batch_size=4, epochs=12, verbose=0, validation_data=(x, y)).history
    assert history["val_loss"][-1] < 0.5 * before["loss"]
    predicted = model.predict(x, batch_size=3, verbose=0)
    assert predicted.shape == (8, 8, 31)
    np.testing.assert_allclose(predicted, model(x), rtol=0, atol=1e-5)


def test_fit_with_a_dataset_of_sample_weights():
    """Half the targets have weight 0: they are not learned from."""
    model = tfgpt.CausalLM(CONFIG)
    x, y = counting()
    weights = np.zeros(y.shape, "float32")
    weights[:, :4] = 1
    wrong = np.where(weights == 1, y, -1)  # an id that no vocabulary has
    dataset = tf.data.Dataset.from_tensor_slices((x, wrong, weights)).batch(4).repeat(4)
    model.compile(keras.optimizers.Adam(0.02))
    history = model.fit(dataset, epochs=2, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]


def test_dropout_acts_in_training_only():
    model = tfgpt.CausalLM(CONFIG.replace(dropout=0.5))
    x, _ = counting(2)
    still = np.asarray(model(x))
    np.testing.assert_array_equal(model(x, training=False), still)
    one, other = (np.asarray(model(x, training=True)) for _ in range(2))
    assert np.abs(one - other).max() > 0 and np.abs(one - still).max() > 0


@pytest.mark.parametrize("dropout", ["dropout", "attention_dropout", "embedding_dropout"])
def test_each_dropout_rate_has_a_place(dropout):
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0, dropout: 0.5}
    model = tfgpt.CausalLM(CONFIG.replace(**rates, initializer_range=0.3))
    x, _ = counting(2)
    assert np.abs(np.asarray(model(x, training=True)) - np.asarray(model(x))).max() > 1e-3


@pytest.mark.parametrize("dtype", ROUNDING)
def test_half_precision_is_within_rounding(dtype, gpt2_directory):
    expected = np.load(gpt2_directory / "expected.npz", allow_pickle=False)
    model = tfgpt.CausalLM.from_pretrained(gpt2_directory, dtype=dtype)
    logits = model(expected["token_ids"], mask=expected["left_mask"])
    assert logits.dtype == model.compute_dtype and model.compute_dtype in ("float16", "bfloat16")
    assert all(v.dtype == model.variable_dtype for v in model.trainable_variables)
    logits = np.asarray(tf.cast(logits, "float32"))
    assert np.isfinite(logits).all()
    real = expected["left_mask"].astype(bool)
    gap = logits[real] - expected["left_logits"][real]
    # 11 blocks, each adding a few roundings of numbers of order 1 to 4; errors are independent.
    assert 0 < np.sqrt((gap**2).mean()) < 8 * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_half_precision_caches_and_trains(dtype):
    model = tfgpt.CausalLM(CONFIG, dtype=dtype)
    x, y = counting()
    whole = np.asarray(tf.cast(model(x), "float32"))
    cache = model.empty_cache(8, capacity=12)
    assert cache.keys[0].dtype == model.compute_dtype
    part, cache = model(x[:, :5], cache=cache)
    rest, cache = model(x[:, 5:], cache=cache)
    parts = np.asarray(tf.cast(tf.concat([part, rest], axis=1), "float32"))
    np.testing.assert_allclose(parts, whole, rtol=0, atol=0.02)
    if dtype == "bfloat16":
        return  # Keras's Adam keeps 0.999 in the variables' dtype, where it is 1: nothing would be learned
    model.compile(keras.optimizers.Adam(0.02))
    history = model.fit(x, y, epochs=6, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]


@pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed"])
def test_one_trace_serves_every_shape(fixed):
    """Traced once with open dimensions, as the export does it, the graph gives the same numbers."""
    model = tfgpt.CausalLM(CONFIG.replace(num_key_value_heads=1, positions="rotary_split"))
    slots = tf.TensorSpec([None, 1, 12 if fixed else None, 8])
    kept = model.empty_cache(1, capacity=12 if fixed else None)
    names = [[slots] * 2, [slots] * 2] + ([tf.TensorSpec([], tf.int32)] if fixed else [])
    signature = type(kept)(*(tuple(each) if isinstance(each, list) else each for each in names))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32), signature], autograph=False)
    def step(token_ids, cache):
        return model(token_ids, cache=cache)

    for batch_size, sizes in ((1, (1, 1)), (3, (4, 2)), (2, (7, 5))):
        x = counting(batch_size, sum(sizes))[0]
        first, cache = step(x[:, : sizes[0]], model.empty_cache(batch_size, capacity=12 if fixed else None))
        second, cache = step(x[:, sizes[0] :], cache)
        np.testing.assert_allclose(tf.concat([first, second], 1), model(x), rtol=0, atol=1e-5)


def test_xla_gives_the_same_logits():
    model = tfgpt.CausalLM(CONFIG.replace(attention_pattern=("global", "local"), window=3))
    x, _ = counting(2)
    compiled = tf.function(model, jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(x), model(x), rtol=0, atol=1e-5)


def test_it_can_be_made_under_a_strategy_and_named_weights_are_complete():
    with tf.distribute.get_strategy().scope():
        model = tfgpt.CausalLM(CONFIG)
    assert set(map(id, model.named_weights().values())) == set(map(id, model.trainable_variables))
    assert "decoder/block_1/attention/qkv/kernel" in model.named_weights()


def test_initial_weights_follow_the_paper():
    """Radford et al. 2019, section 2.3: 0.02, and less by sqrt(2 * layers) into the residual stream."""
    model = tfgpt.CausalLM(tfgpt.ModelConfig(500, 64, 4, 4, 64, tie_embeddings=False))
    weights = {name: np.asarray(value) for name, value in model.named_weights().items()}
    for name in ("decoder/token_embedding/table", "decoder/block_0/attention/qkv/kernel", "head/kernel"):
        assert weights[name].std() == pytest.approx(0.02, rel=0.05)
    for name in ("attention/output", "mlp/down"):
        assert weights[f"decoder/block_3/{name}/kernel"].std() == pytest.approx(0.02 / math.sqrt(8), rel=0.05)
    first, second = (weights[f"decoder/block_{i}/mlp/up/kernel"] for i in (0, 1))
    assert np.abs(first - second).max() > 0
