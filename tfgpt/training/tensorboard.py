"""What a training job shows in TensorBoard.

    train/loss  train/perplexity  train/learning_rate  train/gradient_norm
    train/tokens_per_second  train/flops_utilisation (where the peak is given)
    validation/loss  validation/perplexity
    sample                     text that the model writes, as it develops
    attention/layer_{i}        heat maps of a few heads
    hyperparameters            the HPARAMS tab

Keras's own callback writes neither of the last four, and its graph and embedding options do not work in
Keras 3.15. Events are written with TensorBoard's writer, so that a resumed job can purge what came after its
checkpoint.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tfgpt.errors import InputError
from tfgpt.evaluation.measures import perplexity
from tfgpt.training.attention_images import layer_image
from tfgpt.training.callbacks import IntervalLoss, StepCallback
from tfgpt.training.throughput import flops_utilisation

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class TensorBoardOptions:
    """What to write and how often.

    Attributes:
        tokens_per_step: of the global batch.
        write_every: steps between points of the curves.
        flops_of_token: from `tfgpt.training.throughput.flops_per_token`.
        peak_flops: of all devices; None leaves utilisation out.
        sample: `sample(model) -> str`, called after every validation.
        attention: `attention(model) -> list over layers of [batch, heads, query, key]`, called likewise.
        attention_heads, attention_layers: how many to draw, from the first on.
        hyperparameters: names to numbers, strings and booleans; nested dictionaries are joined by dots.
    """

    tokens_per_step: int
    write_every: int = 10
    flops_of_token: float | None = None
    peak_flops: float | None = None
    sample: Callable | None = None
    attention: Callable | None = None
    attention_heads: int = 4
    attention_layers: int = 4
    hyperparameters: dict = field(default_factory=dict)


class EventWriter:
    """An event file that nobody needs TensorFlow's graph or an active writer for.

    Args:
        directory: of the run.
        first_step: the first step that will be written. Points at it and after, which an interrupted run
            left in the same directory, are then forgotten by TensorBoard.
    """

    def __init__(self, directory, first_step: int = 1):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(directory), flush_secs=10)
        # TensorBoard purges at the second START of a run, so the first run writes one as well.
        log = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=first_step, session_log=log))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Points of curves; what is not a finite number in float32 is left out."""
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        for tag, value in values.items():
            if abs(value) <= _LARGEST:
                self._add(step, scalar_pb(tag, value))

    def text(self, step: int, tag: str, text: str) -> None:
        """A text, shown as it is: indented for Markdown's code block."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(step, text_pb(tag, "    " + text.replace("\n", "\n    ")))

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """A picture, uint8 [height, width, 3]."""
        import tensorflow as tf
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width, channels = image.shape
        png = tf.io.encode_png(image).numpy()
        value = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
        self._add(step, Summary(value=[Summary.Value(tag=tag, image=value)]))

    def hyperparameters(self, values: dict, group: str | None = None) -> None:
        """The settings of the run, for the HPARAMS tab."""
        from tensorboard.plugins.hparams import api

        self._add(0, api.hparams_pb(flat(values), trial_id=group))

    def flush(self) -> None:
        """Writes what is queued."""
        self._writer.flush()

    def close(self) -> None:
        """Writes what is queued and closes the file."""
        self._writer.close()

    def _add(self, step, summary):
        from tensorboard.compat.proto.event_pb2 import Event

        # Through bytes: TensorBoard's and TensorFlow's protobuf classes of this message differ.
        event = Event(wall_time=time.time(), step=step)
        event.summary.ParseFromString(summary.SerializeToString())
        self._writer.add_event(event)


class TensorBoard(StepCallback):
    """Writes event files under `directory`; see the top of this file."""

    def __init__(self, directory, options: TensorBoardOptions):
        super().__init__()
        if options.write_every < 1:
            raise InputError(f"found write_every={options.write_every}, expected at least 1")
        self.directory = directory
        self.options = options
        self._writer = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._loss = IntervalLoss(self.model)
        self._written_step = self._written_time = None

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._loss.restart()
        if self._written_step is None:
            self._writer = EventWriter(self.directory, first_step=self.step + 1)
            if self.options.hyperparameters:
                self._writer.hyperparameters(self.options.hyperparameters, group=str(self.directory))
        self._written_step, self._written_time = self.step, time.perf_counter()

    def on_step_end(self, step, logs):
        if step // self.options.write_every > self._written_step // self.options.write_every:
            now = time.perf_counter()
            self._write_training(step, logs, now - self._written_time)
            self._written_step, self._written_time = step, now

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("val_loss")
        if loss is not None:
            self._writer.scalars(
                self.step, {"validation/loss": loss, "validation/perplexity": perplexity(loss)}
            )
            self._write_looks()
            self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write_training(self, step, logs, seconds):
        loss = self._loss.take()
        speed = (step - self._written_step) * self.options.tokens_per_step / seconds
        values = {"loss": loss, "perplexity": perplexity(loss), "tokens_per_second": speed}
        values.update({name: logs[name] for name in ("learning_rate", "gradient_norm") if name in logs})
        if self.options.peak_flops and self.options.flops_of_token:
            values["flops_utilisation"] = flops_utilisation(
                speed, self.options.flops_of_token, self.options.peak_flops
            )
        self._writer.scalars(step, {f"train/{name}": float(value) for name, value in values.items()})

    def _write_looks(self):
        options = self.options
        if options.sample is not None:
            self._writer.text(self.step, "sample", options.sample(self.model))
        if options.attention is not None:
            layers = options.attention(self.model)[: options.attention_layers]
            for index, layer in enumerate(layers):
                probabilities = np.asarray(layer)[0]  # [heads, query, key]
                heads = range(min(options.attention_heads, len(probabilities)))
                self._writer.image(self.step, f"attention/layer_{index}", layer_image(probabilities, heads))


def flat(values: dict, prefix: str = "") -> dict:
    """Nested settings as one level, keys joined by dots; lists and None become strings."""
    result = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{name}."))
        elif isinstance(value, (bool, int, float, str)):
            result[f"{prefix}{name}"] = value
        else:
            result[f"{prefix}{name}"] = str(value)
    return result
