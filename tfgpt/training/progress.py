"""Progress of training: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time

from tfgpt.evaluation.measures import perplexity
from tfgpt.training.callbacks import IntervalLoss, StepCallback


class Progress(StepCallback):
    """Shows step, loss, tokens a second and the time that is left. Use it with `fit(verbose=0)`.

    Args:
        total_steps: of the whole job.
        tokens_per_step: of the global batch.
        every: steps between plain lines; the bar is updated twice a second.
        stream: where to write; standard error by default.
    """

    def __init__(self, total_steps: int, tokens_per_step: int, every: int = 100, stream=None):
        super().__init__()
        self.total_steps = total_steps
        self.tokens_per_step = tokens_per_step
        self.every = every
        self.stream = stream or sys.stderr
        self._bar = self._task = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._loss = IntervalLoss(self.model)
        self._shown_step = self._shown_time = None
        self._speed = math.nan
        self._compiling = True
        if self.stream.isatty():
            self._bar, self._task = _make_bar(self.stream, self.total_steps)
            self._bar.start()

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._loss.restart()
        if self._shown_step is None:
            self._shown_step, self._shown_time = self.step, time.perf_counter()

    def on_step_end(self, step, logs):
        now = time.perf_counter()
        if self._compiling:
            # The first execution compiles; it says nothing about the speed.
            self._compiling = False
            self._shown_step, self._shown_time = step, now
            return
        if self._bar is not None:
            if now - self._shown_time >= 0.5 or step >= self.total_steps:
                self._show(step, now, lambda text: self._bar.update(self._task, completed=step, status=text))
        elif step // self.every > self._shown_step // self.every or step >= self.total_steps:
            width = len(str(self.total_steps))
            self._show(step, now, lambda text: self._line(f"step {step:>{width}}/{self.total_steps}  {text}"))

    def on_epoch_end(self, epoch, logs=None):
        if "val_loss" in (logs or {}):
            loss = logs["val_loss"]
            self._line(f"step {self.step}: validation loss {loss:.4f}, perplexity {perplexity(loss):.2f}")
            # Validation is not training: its time does not count for the speed.
            self._shown_step, self._shown_time = self.step, time.perf_counter()

    def on_train_end(self, logs=None):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, step, now, write):
        seconds = now - self._shown_time
        if step > self._shown_step and seconds > 0:
            self._speed = (step - self._shown_step) / seconds
        left = (self.total_steps - step) / self._speed if self._speed > 0 else math.nan
        tokens = self._speed * self.tokens_per_step
        write(f"loss {self._loss.take():.4f}  {tokens:,.0f} tokens/s  {duration(left)} left")
        self._shown_step, self._shown_time = step, now

    def _line(self, text):
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`; `?` when unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _make_bar(stream, total_steps):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
    bar = Bar(*columns, console=Console(file=stream))
    return bar, bar.add_task("training", total=total_steps, status="compiling")
