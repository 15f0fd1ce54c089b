"""`.keras` files and weights files: in this process, and in a fresh one."""

import keras
import numpy as np
import pytest

import tfgpt

CONFIG = tfgpt.ModelConfig(
    31, 16, 2, 2, 8, dropout=0.1, norm="rms", positions="rotary_split", tie_embeddings=False, eos_token_id=3
)

FRESH = """
import keras
import numpy as np
from tfgpt import CausalLM  # as with every custom class of Keras, importing it registers it
model = keras.models.load_model({path!r})
print(type(model).__module__, type(model).__name__)
np.save({output!r}, np.asarray(model(np.arange(12).reshape(2, 6))))
assert (model.optimizer is None) == {compiled!r}
assert model.micro_batches == {micro_batches!r}
"""


def tokens():
    return np.arange(12).reshape(2, 6)


@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16"])
def test_round_trip_is_bit_equal(tmp_path, dtype):
    model = tfgpt.CausalLM(CONFIG, dtype=dtype)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is tfgpt.CausalLM
    assert again.config == model.config
    assert again.dtype_policy.name == model.dtype_policy.name
    np.testing.assert_array_equal(np.asarray(again(tokens())), np.asarray(model(tokens())))


@pytest.mark.slow
def test_a_compiled_model_goes_on_training(tmp_path):
    model = tfgpt.CausalLM(CONFIG.replace(dropout=0.0))
    model.compile(keras.optimizers.AdamW(0.01, clipnorm=1.0), micro_batches=2)
    model.fit(tokens(), tokens(), batch_size=2, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.micro_batches == 2
    assert int(again.optimizer.iterations) == 2
    for one, other in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    losses = [
        each.fit(tokens(), tokens(), batch_size=2, verbose=0).history["loss"] for each in (model, again)
    ]
    assert losses[0] == losses[1]


def test_a_process_that_imported_the_class_loads_it(tmp_path, python):
    model = tfgpt.CausalLM(CONFIG)
    model.compile("sgd", micro_batches=2)
    path, output = str(tmp_path / "model.keras"), str(tmp_path / "logits.npy")
    model.save(path)
    out = python(FRESH.format(path=path, output=output, compiled=False, micro_batches=2))
    assert out.split() == ["tfgpt.models.causal_lm", "CausalLM"]
    np.testing.assert_array_equal(np.load(output), model(tokens()))


def test_weights_files_round_trip(tmp_path):
    model, other = tfgpt.CausalLM(CONFIG), tfgpt.CausalLM(CONFIG)
    model.save_weights(tmp_path / "model.weights.h5")
    assert np.abs(np.asarray(model(tokens())) - np.asarray(other(tokens()))).max() > 0
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model(tokens()), other(tokens()))
