"""What is written for TensorBoard, read back with TensorBoard's own reader."""

import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tfgpt.config import ModelConfig
from tfgpt.models.causal_lm import CausalLM
from tfgpt.training.attention_images import colour, heat_map, layer_image
from tfgpt.training.optimizer import AdamW
from tfgpt.training.schedules import WarmupConstant
from tfgpt.training.tensorboard import EventWriter, TensorBoard, TensorBoardOptions, flat

SAMPLE = "def f():\n    return 1"


def read(directory):
    return EventAccumulator(str(directory), size_guidance={"tensors": 0, "images": 0}).Reload()


def points(events, tag):
    return {event.step: tf.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tensorboard")
    ids = np.random.default_rng(0).integers(0, 11, (40, 7)).astype("int32")
    data = (
        tf.data.Dataset.from_tensor_slices((ids[:, :-1], ids[:, 1:])).batch(4, drop_remainder=True).repeat()
    )
    model = CausalLM(ModelConfig(11, 6, 2, 2, 32))
    model.compile(AdamW(WarmupConstant(1e-2, warmup_steps=3)))
    options = TensorBoardOptions(
        tokens_per_step=24,
        write_every=2,
        flops_of_token=10.0,
        peak_flops=1e3,
        sample=lambda model: SAMPLE,
        attention=lambda model: [np.tril(np.ones((1, 2, 6, 6))) / np.arange(1, 7)[:, None]] * 3,
        attention_layers=2,
        hyperparameters={"training": {"steps": 8, "jit": True}, "corpus": None},
    )
    history = model.fit(
        data,
        epochs=2,
        steps_per_epoch=4,
        validation_data=data.take(2),
        callbacks=[TensorBoard(directory, options)],
        shuffle=False,
        verbose=0,
    ).history
    return read(directory), history


def test_curves(trained):
    events, history = trained
    loss = points(events, "train/loss")
    assert list(loss) == [2, 4, 6, 8]
    # The running mean of an epoch of 4 steps is the mean of its two points of 2 steps.
    for epoch, steps in enumerate([(2, 4), (6, 8)]):
        assert np.mean([loss[step] for step in steps]) == pytest.approx(history["loss"][epoch], abs=1e-6)
    perplexity = points(events, "train/perplexity")
    assert [float(value) for value in perplexity.values()] == pytest.approx(
        np.exp(list(loss.values())), rel=1e-5
    )
    rate = points(events, "train/learning_rate")
    assert [float(value) for value in rate.values()] == pytest.approx(
        [5e-3, 1e-2, 1e-2, 1e-2]
    )  # 2 of 4 quarters
    norms = points(events, "train/gradient_norm")
    assert float(norms[8]) == pytest.approx(history["gradient_norm"][1])
    speed, share = points(events, "train/tokens_per_second"), points(events, "train/flops_utilisation")
    for step in speed:
        assert share[step] == pytest.approx(speed[step] * 10.0 / 1e3, rel=1e-5)


def test_validation(trained):
    events, history = trained
    loss = points(events, "validation/loss")
    assert list(loss) == [4, 8]
    assert [float(value) for value in loss.values()] == pytest.approx(history["val_loss"])
    perplexity = [float(value) for value in points(events, "validation/perplexity").values()]
    assert perplexity == pytest.approx(np.exp(history["val_loss"]), rel=1e-5)


def test_samples_and_attention(trained):
    events, _ = trained
    texts = points(events, "sample")
    assert list(texts) == [4, 8]
    assert texts[4].item() == b"    def f():\n        return 1"
    assert events.Tags()["images"] == ["attention/layer_0", "attention/layer_1"]
    image = events.Images("attention/layer_1")[-1]
    assert image.step == 8
    pixels = tf.io.decode_png(image.encoded_image_string).numpy()
    assert pixels.shape == (image.height, image.width, 3) == (258, 258 + 8 + 258, 3)
    assert tuple(pixels[0, 0]) == (253, 231, 37)  # the first query has all of its weight on itself
    assert tuple(pixels[0, -1]) == (68, 1, 84)  # and none on the last key


def test_hyperparameters(trained):
    events, _ = trained
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["training.steps"].number_value == 8
    assert values["training.jit"].bool_value is True
    assert values["corpus"].string_value == "None"


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path):
    first = EventWriter(tmp_path / "run")
    for step in (1, 2, 3, 4):
        first.scalars(step, {"loss": float(step)})
    first.close()
    time.sleep(1.1)  # event files are told apart by the second they were opened in
    second = EventWriter(tmp_path / "run", first_step=3)
    second.scalars(3, {"loss": 30.0, "bad": float("nan")})
    second.close()
    # The class that TensorBoard's server reads with; the other reader purges no curves of today's form.
    events = plugin_event_accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    assert {step: float(value) for step, value in points(events, "loss").items()} == {1: 1.0, 2: 2.0, 3: 30.0}
    assert "bad" not in events.Tags()["tensors"]


def test_heat_maps():
    assert colour(np.array([0.0, 1.0, 2.0])).tolist() == [[68, 1, 84], [253, 231, 37], [253, 231, 37]]
    image = heat_map(np.array([[1.0, 0.0], [0.25, 0.75]]), size=5)
    assert image.shape == (6, 6, 3)  # two cells of three whole pixels
    assert (image[:3, :3] == (253, 231, 37)).all() and (image[:3, 3:] == (68, 1, 84)).all()
    # sqrt(0.25) = 0.5 lies midway between the third and the fourth anchor.
    assert image[5, 0].tolist() == [38, 144, 137]
    sides = layer_image(np.zeros((3, 2, 2)), heads=[0, 2], size=2, gap=1)
    assert sides.shape == (2, 5, 3) and (sides[:, 2] == 255).all()


def test_flat():
    assert flat({"a": {"b": 1, "c": {"d": "x"}}, "e": [1, 2]}) == {"a.b": 1, "a.c.d": "x", "e": "[1, 2]"}
