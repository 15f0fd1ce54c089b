"""The two faults of Keras's optimizers on TensorFlow, decay, and averages."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt.errors import InputError
from tfgpt.training.optimizer import AdamW, averaged_weights

# An embedding whose rows repeat within a batch, not tied to the head; 8 steps of AdamW. Run on both backends.
UNTIED = """
import keras, numpy as np
from tfgpt.training.optimizer import AdamW
kinds = {"stock": keras.optimizers.AdamW, "mended": AdamW}
inputs = keras.Input((16,), dtype="int32")
table = keras.layers.Embedding(13, 8, name="table")
x = table(inputs)
x = keras.layers.Dense(16, activation="gelu")(x)
model = keras.Model(inputs, keras.layers.Dense(13)(x))
rng = np.random.default_rng(0)
model.set_weights([0.3 * rng.standard_normal(w.shape) for w in model.get_weights()])
ids = rng.integers(0, 13, (8, 4, 17))
optimizer = kinds[KIND](
    learning_rate=0.03, weight_decay=0.0, beta_2=0.95, epsilon=1e-8)
model.compile(optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
for batch in ids:
    print(float(np.ravel(model.train_on_batch(batch[:, :-1], batch[:, 1:]))[0]))
"""

# Recorded from JAX 0.10 with keras 3.15.1, stock AdamW.
JAX_LOSSES = [2.594351, 2.645262, 2.577289, 2.594139, 2.622327, 2.627409, 2.650743, 2.596383]


def losses(python, kind, backend):
    return np.array(python(UNTIED.replace("KIND", repr(kind)), KERAS_BACKEND=backend).split(), float)


def test_repeated_rows_are_added_up_as_on_jax(python):
    np.testing.assert_allclose(losses(python, "mended", "tensorflow"), JAX_LOSSES, atol=5e-6)


@pytest.mark.slow
def test_the_fault_is_still_there(python):
    # When this fails, Keras has mended its optimizer: `densify` may go.
    assert keras.ops.square(tf.IndexedSlices([[1.0], [2.0]], [0, 0], [3, 1])).values.shape[0] == 2
    assert abs(losses(python, "stock", "tensorflow") - JAX_LOSSES).max() > 1e-3


@pytest.mark.slow
def test_the_recorded_losses_are_those_of_jax(python):
    pytest.importorskip("jax")
    np.testing.assert_allclose(losses(python, "stock", "jax"), JAX_LOSSES, atol=2e-6)
    np.testing.assert_allclose(losses(python, "mended", "jax"), JAX_LOSSES, atol=2e-6)


def test_loss_scale_factor_with_an_embedding():
    # Stock Keras divides a `tf.IndexedSlices` and raises TypeError.
    table = keras.Variable(np.ones((3, 1), "float32"))
    optimizer = AdamW(0.5, weight_decay=0.0, loss_scale_factor=2.0, global_clipnorm=1.0)
    optimizer.apply([tf.IndexedSlices(tf.constant([[2.0], [4.0]]), [0, 0], [3, 1])], [table])
    # Adam's first step is the learning rate against the gradient's sign; row 0 has one, the others have none.
    np.testing.assert_allclose(table.numpy(), [[0.5], [1.0], [1.0]], atol=1e-6)
    (momentum,) = [v for v in optimizer.variables if "momentum" in v.name]
    np.testing.assert_allclose(
        momentum.numpy(), [[0.1], [0.0], [0.0]], atol=1e-7
    )  # (2 + 4) / 2, clipped to 1


def make_variables():
    shapes = {"token_embedding/table": (3, 2), "mlp/kernel": (2, 2), "mlp/bias": (2,), "norm/scale": (2,)}
    shapes["experts/bias"] = (4, 2)
    variables = {}
    for path, shape in shapes.items():
        variables[path] = keras.Variable(np.ones(shape, "float32"), name=path.rsplit("/", 1)[1])
        variables[path]._path = path
    return variables


@pytest.mark.parametrize(
    ("options", "decayed"),
    [
        ({}, {"token_embedding/table", "mlp/kernel"}),
        ({"decay_embeddings": False}, {"mlp/kernel"}),
        ({"no_decay": ["mlp/.*"]}, {"token_embedding/table"}),
    ],
)
def test_what_is_decayed(options, decayed):
    variables = make_variables()
    optimizer = AdamW(0.5, weight_decay=0.1, **options)
    # With gradients of 0 only the decay is left: w * (1 - 0.5 * 0.1).
    optimizer.apply([np.zeros(v.shape, "float32") for v in variables.values()], list(variables.values()))
    for path, variable in variables.items():
        np.testing.assert_allclose(
            variable.numpy(), 0.95 if path in decayed else 1.0, rtol=1e-6, err_msg=path
        )


@pytest.mark.parametrize(("pattern", "message"), [("nothing", "no variable"), ("(", "regular expression")])
def test_impossible_exclusions(pattern, message):
    with pytest.raises(InputError, match=message):
        AdamW(no_decay=[pattern]).build(list(make_variables().values()))


def test_moving_average_and_the_way_back():
    rng = np.random.default_rng(0)
    dense = keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((2,)), dense])
    model.compile(AdamW(0.1, use_ema=True, ema_momentum=0.75), loss="mse")
    with averaged_weights(model):  # before the first step there is no average
        pass
    average = None
    for _ in range(3):
        model.train_on_batch(rng.standard_normal((4, 2)), rng.standard_normal((4, 3)))
        kernel = dense.kernel.numpy()
        average = kernel if average is None else 0.75 * average + 0.25 * kernel
    kernel = dense.kernel.numpy()
    with averaged_weights(model):
        np.testing.assert_allclose(dense.kernel.numpy(), average, atol=1e-6)
        assert abs(dense.kernel.numpy() - kernel).max() > 1e-3
    np.testing.assert_array_equal(dense.kernel.numpy(), kernel)
