"""Checkpoints: exact, atomic, checked when read."""

import json

import keras
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.models.causal_lm import CausalLM
from tfgpt.training.optimizer import AdamW
from tfgpt.training.resume import Checkpoints, build_for_training, capture, restore

ARRAYS = {
    "a": np.arange(6, dtype="float32").reshape(2, 3),
    "b": np.array(7, "int64"),
    "c": np.array([1.5, -2.0], ml_dtypes.bfloat16),
}


def make_model(hidden_dim=32, dtype=None):
    model = CausalLM(ModelConfig(11, 6, 2, 2, hidden_dim, dropout=0.1), dtype=dtype)
    model.compile(AdamW(1e-2, use_ema=True))
    build_for_training(model)
    return model


def train(model, steps=2):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        model.train_on_batch(rng.integers(0, 11, (4, 6)), rng.integers(0, 11, (4, 6)))


def test_what_is_saved_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() is None
    checkpoints.save(5, ARRAYS, {"best": {"loss": 1.5}})
    found = checkpoints.latest()
    assert (found.step, found.state) == (5, {"best": {"loss": 1.5}})
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found.arrays[name], array)


def test_the_last_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step in (1, 2, 10, 30):
        checkpoints.save(step, ARRAYS, {})
    assert checkpoints.steps() == [10, 30]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000030"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "variables.safetensors").write_bytes((d / "variables.safetensors").read_bytes()[:-3]),
        lambda d: (d / "variables.safetensors").write_bytes(b""),
        lambda d: (d / "variables.safetensors").unlink(),
        lambda d: (d / "state.json").write_text('{"version": 1, "st'),
        lambda d: (d / "state.json").write_text("[]"),
        lambda d: (d / "state.json").unlink(),
        lambda d: flip_a_bit(d / "variables.safetensors"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_one_line(tmp_path, damage):
    lines = []
    checkpoints = Checkpoints(tmp_path, keep_last=3, warn=lines.append)
    for step in (1, 2, 3):
        checkpoints.save(step, ARRAYS, {})
    damage(checkpoints.path(3))
    assert checkpoints.latest().step == 2
    (line,) = lines
    assert line.startswith("warning: found checkpoint") and "damaged" in line and "\n" not in line


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_an_unfinished_checkpoint_is_not_one(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, ARRAYS, {})
    (tmp_path / ".step-00000002.tfgpt-abcd1234.part").mkdir()
    assert checkpoints.steps() == [1]

    class Full(dict):
        def items(self):
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        checkpoints.save(3, Full(), {})
    assert checkpoints.steps() == [1]


def test_everything_that_training_changes_is_captured():
    trained, other = make_model(), make_model()
    train(trained, steps=2)
    restore(other, capture(trained))
    assert int(other.optimizer.iterations) == 2
    for model in (trained, other):
        train(model, steps=2)
    for one, two in zip(trained.variables, other.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy(), err_msg=one.path)
    for one, two in zip(trained.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy(), err_msg=one.path)
    seeds = [variable for variable in trained.variables if "seed" in variable.path]
    assert seeds and all(np.any(seed.numpy() != 0) for seed in seeds)


def test_loss_scale_is_captured():
    model = make_model(dtype="mixed_float16")
    model.optimizer.dynamic_scale.assign(2.0)
    arrays = capture(model)
    model.optimizer.dynamic_scale.assign(4.0)
    restore(model, arrays)
    assert float(model.optimizer.dynamic_scale) == 2.0


def test_another_model_is_refused_and_left_alone():
    model = make_model()
    before = model.get_weights()
    with pytest.raises(InputError, match="shape"):
        restore(model, capture(make_model(hidden_dim=16)))
    arrays = capture(model)
    arrays.pop(next(iter(arrays)))
    with pytest.raises(InputError, match="missing"):
        restore(model, arrays)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_file_is_plain_safetensors(tmp_path):
    model = make_model()
    directory = Checkpoints(tmp_path).save(1, capture(model), {})
    stored = load_file(directory / "variables.safetensors")
    (name,) = [name for name in stored if name.endswith("token_embedding/table")]
    np.testing.assert_array_equal(stored[name], model.decoder.token_embedding.table.numpy())
    assert json.loads((directory / "state.json").read_text())["step"] == 1
    assert keras.config.backend() == "tensorflow"
