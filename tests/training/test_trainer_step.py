"""The training and test step of every head, against NumPy and a plain gradient tape."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.models.causal_lm import CausalLM
from tfgpt.training.optimizer import AdamW

VOCABULARY, LENGTH, BATCH = 11, 6, 8


def make_model(dtype=None, **changes):
    keras.utils.set_random_seed(1)
    fields = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "tie_embeddings": False, **changes}
    return CausalLM(ModelConfig(VOCABULARY, LENGTH, **fields), dtype=dtype)


def make_batches(count=1, weighted=True):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY, (count * BATCH, LENGTH + 1)).astype("int32")
    weights = rng.integers(0, 3, (count * BATCH, LENGTH)).astype("float32")
    token_ids, labels = ids[:, :-1].copy(), ids[:, 1:].copy()
    return (token_ids, labels, weights) if weighted else (token_ids, labels)


def numpy_loss(model, token_ids, labels, weights):
    """sum(w * l) / sum(w) in float64, from the logits alone."""
    logits = np.asarray(model(token_ids), "float64")
    logits -= logits.max(-1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0]
    return (losses * weights).sum() / weights.sum()


def tape_gradients(model, token_ids, labels, weights):
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(token_ids))
        loss = tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    return [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH, drop_remainder=True)


@pytest.mark.parametrize("micro_batches", [1, 2, 8])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_one_step_is_the_gradient_of_the_weighted_mean(micro_batches, jit_compile):
    # Weights differ between the slices, so a mean of the slices' means would be another gradient.
    batch = make_batches()
    model = make_model()
    loss, gradients = numpy_loss(model, *batch), tape_gradients(model, *batch)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), micro_batches=micro_batches, jit_compile=jit_compile)
    logs = model.train_on_batch(*batch, return_dict=True)
    assert logs["loss"] == pytest.approx(loss, abs=1e-6)
    norm = np.sqrt(sum((gradient.astype("float64") ** 2).sum() for gradient in gradients))
    assert logs["gradient_norm"] == pytest.approx(norm, rel=1e-6)
    assert logs["learning_rate"] == 1.0
    for old, new, gradient in zip(before, model.get_weights(), gradients, strict=True):
        np.testing.assert_allclose(old - new, gradient, atol=3e-7)  # rounding of weights near 1


def test_gradient_norm_is_the_one_before_clipping():
    batch = make_batches()
    model = make_model()
    gradients = tape_gradients(model, *batch)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0, global_clipnorm=1e-3))
    logs = model.train_on_batch(*batch, return_dict=True)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    assert logs["gradient_norm"] == pytest.approx(norm, rel=1e-6)
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(before, model.get_weights(), strict=True)))
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("known_size", [True, False])
@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_evaluation_is_the_mean_over_all_tokens(known_size, steps_per_execution):
    # Of a dataset of unknown size, stock Keras 3.15 counts one batch too many without XLA.
    token_ids, labels, weights = make_batches(count=3)
    weights[:BATCH] *= 5
    data = dataset(token_ids, labels, weights)
    data = data if known_size else data.filter(lambda *batch: True)
    model = make_model()
    model.compile("sgd", steps_per_execution=steps_per_execution, jit_compile=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        found = model.evaluate(data, verbose=0)
    assert found == pytest.approx(numpy_loss(model, token_ids, labels, weights), abs=1e-6)


def test_an_epoch_of_unknown_size_counts_its_steps():
    data = dataset(*make_batches(count=3)).filter(lambda *batch: True)
    model = make_model(dropout=0.1)
    model.compile(AdamW(1e-3), jit_compile=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        model.fit(data, verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == 3


def test_weights_of_whole_rows_and_labels_that_do_not_count():
    token_ids, labels, _ = make_batches()
    rows = np.array([1, 0, 2, 0, 1, 1, 0, 3], "float32")
    labels[rows == 0] = -100
    model = make_model()
    expected = numpy_loss(model, token_ids, np.maximum(labels, 0), rows[:, None] * np.ones((1, LENGTH)))
    model.compile("sgd", jit_compile=True)
    logs = model.train_on_batch(token_ids, labels, rows, return_dict=True)
    assert logs["loss"] == pytest.approx(expected, abs=1e-6)
    assert np.isfinite(logs["gradient_norm"])


def test_a_loss_object_of_keras_and_metrics():
    token_ids, labels = make_batches(weighted=False)
    plain, sliced = make_model(), make_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    sliced.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"], micro_batches=4)
    expected = numpy_loss(plain, token_ids, labels, np.ones(labels.shape))
    accuracy = (np.argmax(plain(token_ids), -1) == labels).mean()
    for model in (plain, sliced):
        logs = model.train_on_batch(token_ids, labels, return_dict=True)
        assert logs["loss"] == pytest.approx(expected, abs=1e-6)
        assert logs["accuracy"] == pytest.approx(accuracy)
    for one, other in zip(plain.get_weights(), sliced.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_mixed_precision_computes_the_loss_in_float32():
    batch = make_batches()
    model = make_model("mixed_bfloat16")
    model.compile("sgd")
    # The logits are bfloat16; from them on everything is float32, or the two would differ by about 1e-2.
    token_ids, labels, weights = batch
    found = model.evaluate(token_ids, labels, sample_weight=weights, verbose=0)
    assert found == pytest.approx(numpy_loss(model, *batch), abs=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_too_coarse_to_learn_are_warned_of(dtype):
    model = make_model(dtype)
    with pytest.warns(UserWarning, match=f"trainable weights in {dtype}.*'mixed_{dtype}'"):
        model.compile("adam")
    model.trainable = False  # nothing to train: nothing to say, and warnings are errors here
    model.compile("adam")
    make_model(f"mixed_{dtype}").compile("adam")


@pytest.mark.slow
def test_loss_scaling_leaves_the_reported_norm_and_skips_what_overflows():
    batch = make_batches()
    reference = make_model()
    norm = np.sqrt(sum((gradient**2).sum() for gradient in tape_gradients(reference, *batch)))
    model = make_model("mixed_float16")
    model.compile(AdamW(1e-3, global_clipnorm=1.0), micro_batches=2)
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    logs = model.train_on_batch(*batch, return_dict=True)
    assert logs["gradient_norm"] == pytest.approx(norm, rel=1e-2)  # float16 has 11 bits
    before = model.get_weights()
    model.optimizer.dynamic_scale.assign(2.0**120)
    model.train_on_batch(*batch)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(model.optimizer.dynamic_scale) == 2.0**119


@pytest.mark.slow
def test_saved_and_loaded_with_its_compilation(tmp_path):
    batch = make_batches()
    model = make_model()
    model.compile(AdamW(1e-2, no_decay=["embedding"]), micro_batches=2)
    model.train_on_batch(*batch)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.micro_batches == 2
    assert loaded.optimizer.no_decay == ("embedding",)
    assert loaded.train_on_batch(*batch) == pytest.approx(model.train_on_batch(*batch), abs=1e-7)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_impossible_micro_batches(value):
    with pytest.raises(InputError, match="micro_batches"):
        make_model().compile("sgd", micro_batches=value)


def test_a_batch_that_cannot_be_cut():
    model = make_model()
    model.compile("sgd", micro_batches=3)
    with pytest.raises(InputError, match=r"batch of 8 .* multiple of 3"):
        model.fit(dataset(*make_batches()), verbose=0, shuffle=False)


def test_keras_distribution_is_refused():
    # On TensorFlow it is silently ignored: everything stays on one device.
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    try:
        with pytest.raises(InputError, match=r"tf\.distribute"):
            make_model().compile("sgd")
    finally:
        keras.distribution.set_distribution(None)


def test_on_jax_the_same_losses(python):
    pytest.importorskip("jax")
    code = """
import numpy as np, keras, sys
from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.models.causal_lm import CausalLM
from tfgpt.training.optimizer import AdamW
model = CausalLM(ModelConfig(11, 6, 2, 2, 32, tie_embeddings=False))
rng = np.random.default_rng(0)
model.set_weights([0.1 * rng.standard_normal(v.shape) for v in model.trainable_variables])
model.compile(AdamW(1e-2, global_clipnorm=0.5))
ids = rng.integers(0, 11, (8, 7)); weights = rng.integers(0, 3, (8, 6)).astype("float32")
for _ in range(3):
    print(float(np.ravel(model.train_on_batch(ids[:, :-1], ids[:, 1:], weights))[0]))
if keras.config.backend() == "jax":
    assert "tensorflow" not in sys.modules
    try:
        model.compile("sgd", micro_batches=2)
    except InputError as error:
        assert "KERAS_BACKEND" in str(error)
    else:
        raise AssertionError("micro_batches were accepted")
"""
    ours, jax = (
        np.array(python(code, KERAS_BACKEND=backend).split(), float) for backend in ("tensorflow", "jax")
    )
    # train_on_batch starts its means anew every time; the third loss has two updates behind it.
    np.testing.assert_allclose(ours, jax, atol=2e-6)
    assert ours[2] < ours[0] - 0.01
