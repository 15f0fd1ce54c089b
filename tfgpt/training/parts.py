"""When a job validates and saves, and how `fit` is called for it: the parts of a run.

With 500 steps, a validation every 200 and a checkpoint every 100 or 150:

    due every 100       100   200   300   400   500        one part of 5 epochs of 100 steps
    due every 150   150  200   300    400  450  500        parts of 150; 50; 2 x 100; 2 x 50 steps

A part is one call of `fit`, whose epochs have the same number of steps; something is due after the last step
of every epoch, and always after the last step of the run.
"""

import itertools
import math
from dataclasses import dataclass

import keras


@dataclass(frozen=True)
class Part:
    """`epochs` epochs of `steps` steps, after `start_step` steps and `first_epoch` epochs."""

    start_step: int
    first_epoch: int
    steps: int
    epochs: int

    def steps_per_execution(self, wanted: int) -> int:
        """The most steps up to `wanted` that can run at once and end where an epoch ends."""
        return math.gcd(self.steps, wanted)

    def epochs_that_end_at(self, every: int, total_steps: int) -> list[int]:
        """Numbers, counted from 1 as Keras does here, of the epochs that end at a multiple or at the end."""
        ends = ((self.first_epoch + n, self.start_step + n * self.steps) for n in range(1, self.epochs + 1))
        return [epoch for epoch, step in ends if is_due(step, every, total_steps)]


def is_due(step: int, every: int, total_steps: int) -> bool:
    """Whether what is done every so many steps, and after the last one, is done after `step`."""
    return step % every == 0 or step >= total_steps


def parts_of(start_step: int, total_steps: int, *intervals: int) -> list[Part]:
    """The parts of the steps from `start_step` to `total_steps`, something being due at every interval."""
    due = _due_steps(start_step, total_steps, intervals)
    first_epoch = len(_due_steps(0, start_step, intervals))
    parts, step = [], start_step
    lengths = [end - begin for begin, end in itertools.pairwise([start_step, *due])]
    for length, equal in itertools.groupby(lengths):
        epochs = len(list(equal))
        parts.append(Part(step, first_epoch, length, epochs))
        step, first_epoch = step + length * epochs, first_epoch + epochs
    return parts


def _due_steps(after: int, last: int, intervals) -> list[int]:
    multiples = (range(after - after % every + every, last + 1, every) for every in intervals)
    return sorted({*itertools.chain(*multiples), *([last] if last > after else [])})


class OneTraining(keras.callbacks.CallbackList):
    """The callbacks of one training in several calls of `fit`: for them it begins once and ends once.

    Give it to every `fit`, call `set_part` before each and `finish` after the last.
    """

    _has_begun = False

    def set_part(self, part: Part) -> None:
        """Tells the callbacks how long the epochs of the next `fit` are."""
        self.set_params({"verbose": 0, "epochs": part.first_epoch + part.epochs, "steps": part.steps})

    def on_train_begin(self, logs=None):
        if not self._has_begun:
            self._has_begun = True
            super().on_train_begin(logs)

    def on_train_end(self, logs=None):
        """A part has ended; see `finish`."""

    def finish(self) -> None:
        """Tells the callbacks that training has ended."""
        super().on_train_end()
