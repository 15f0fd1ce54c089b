"""Keras callbacks of a training job: checkpoints, best model, early stopping, averages, progress."""

import math

import keras

from tfgpt.training.optimizer import averaged_weights, innermost
from tfgpt.training.parts import is_due
from tfgpt.training.resume import Checkpoints, capture


class StepCallback(keras.callbacks.Callback):
    """A callback that knows the step: `self.step` updates are done, over all epochs and resumptions.

    Attributes:
        start_step: updates done before this training; None takes those of `initial_epoch` whole epochs.
    """

    start_step: int | None = None
    step = 0
    _is_counting = False

    def on_train_begin(self, logs=None):
        self._is_counting = False

    def on_epoch_begin(self, epoch, logs=None):
        if not self._is_counting:
            self._is_counting = True
            done = epoch * (self.params.get("steps") or 0)
            self.step = done if self.start_step is None else self.start_step
        self._epoch_start = self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step = self._epoch_start + batch + 1
        self.on_step_end(self.step, logs or {})

    def on_step_end(self, step, logs):
        """Called after every execution (of `steps_per_execution` steps), `step` steps being done."""


class IntervalLoss:
    """The mean training loss since the last look, from the model's running mean of the epoch."""

    def __init__(self, model):
        self._tracker = model._loss_tracker
        self._seen = (0.0, 0.0)

    def restart(self):
        """Says that the running mean starts anew, at the start of an epoch."""
        self._seen = (0.0, 0.0)

    def take(self) -> float:
        """Mean loss since the last call or restart; NaN if nothing was trained since."""
        now = tuple(float(keras.ops.convert_to_numpy(v)) for v in (self._tracker.total, self._tracker.count))
        total, count = now[0] - self._seen[0], now[1] - self._seen[1]
        self._seen = now
        return total / count if count else math.nan


class SaveCheckpoints(StepCallback):
    """Saves the whole job where a checkpoint is due. Put it last: it saves what the others know.

    Args:
        checkpoints: where.
        every: steps; a checkpoint is due at the end of an epoch that ends at a multiple of it.
        total_steps: of the job; one is due after the last of them, and where training is stopped.
        stateful: callbacks with `state() -> dict` and `load_state(dict)`, by name.
        fingerprint: what `train` compares on resumption; any JSON.
    """

    def __init__(
        self, checkpoints: Checkpoints, every: int, total_steps: int, stateful=None, fingerprint=None
    ):
        super().__init__()
        self.checkpoints = checkpoints
        self.every = every
        self.total_steps = total_steps
        self.stateful = stateful or {}
        self.fingerprint = fingerprint

    def on_epoch_end(self, epoch, logs=None):
        if is_due(self.step, self.every, self.total_steps) or self.model.stop_training:
            state = {name: callback.state() for name, callback in self.stateful.items()}
            state["fingerprint"] = self.fingerprint
            self.checkpoints.save(self.step, capture(self.model), state)


class AverageForValidation(keras.callbacks.Callback):
    """Validates the moving average of the weights (`use_ema`) and gives the trained weights back bit for bit.

    `keras.callbacks.SwapEMAWeights` swaps by adding and subtracting, which changes the weights' last bits.
    """

    _swap = None

    def on_test_begin(self, logs=None):
        self._swap = averaged_weights(self.model)
        self._swap.__enter__()

    def on_test_end(self, logs=None):
        self._swap.__exit__(None, None, None)
        self._swap = None


class KeepBest(keras.callbacks.Callback):
    """Saves the model with the lowest validation loss (its moving average, where there is one).

    Args:
        save: called as `save(model)`, writes it somewhere atomically.
    """

    def __init__(self, save):
        super().__init__()
        self.save = save
        self.best = {"loss": math.inf, "step": 0}

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("val_loss")
        if loss is not None and loss < self.best["loss"]:
            with averaged_weights(self.model):
                self.save(self.model)
            self.best = {"loss": float(loss), "step": int(_iterations(self.model))}

    def state(self):
        """The best so far, as JSON; nothing before the first validation."""
        return self.best if self.best["step"] else {}

    def load_state(self, state):
        """Goes on from `state()` of an earlier run."""
        self.best = dict(state) if state else self.best


class EarlyStopping(keras.callbacks.Callback):
    """Stops when the validation loss has not gone down in `patience` validations; survives resumption."""

    def __init__(self, patience: int):
        super().__init__()
        self.patience = patience
        self.best = None
        self.waited = 0

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return self.waited >= self.patience

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("val_loss")
        if loss is None:
            return
        improved = self.best is None or loss < self.best
        self.best, self.waited = (float(loss), 0) if improved else (self.best, self.waited + 1)
        if self.stopped:
            self.model.stop_training = True

    def state(self):
        """Best loss and validations waited, as JSON."""
        return {"best": self.best, "waited": self.waited}

    def load_state(self, state):
        """Goes on from `state()` of an earlier run."""
        self.best, self.waited = state["best"], state["waited"]


class StopOnNotANumber(keras.callbacks.Callback):
    """Stops a job whose loss is no longer a number, before it is checkpointed; put it first.

    The validation loss counts as well: the training loss does not know yet what the last update did.
    """

    def on_epoch_end(self, epoch, logs=None):
        for name, title in (("loss", "training"), ("val_loss", "validation")):
            loss = (logs or {}).get(name)
            if loss is not None and not math.isfinite(loss):
                raise FloatingPointError(
                    f"the {title} loss became {loss} in part {epoch + 1} of training: lower the learning "
                    "rate, clip harder, or use float32; the last checkpoint was written before that"
                )


def _iterations(model):
    return keras.ops.convert_to_numpy(innermost(model.optimizer).iterations)
