"""Learning rates over the steps of training, as serializable Keras schedules.

All three start with the same warmup: step k (from 0) of W warmup steps has peak * (k + 1) / (W + 1), so that
no step is wasted on a rate of 0 (nanoGPT, train.py, `get_lr`).
"""

import math

import keras
from keras import ops

from tfgpt.errors import InputError


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Warmup to `peak`, then `_after_warmup`.

    Args:
        peak: largest learning rate.
        warmup_steps: steps before it is reached.
    """

    def __init__(self, peak: float, warmup_steps: int = 0):
        _check("peak", peak, minimum=0.0)
        _check("warmup_steps", warmup_steps, minimum=0)
        self.peak = float(peak)
        self.warmup_steps = int(warmup_steps)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = self.peak * (step + 1.0) / (self.warmup_steps + 1.0)
        return ops.where(step < self.warmup_steps, warmup, self._after_warmup(step))

    def _after_warmup(self, step):
        raise NotImplementedError

    def get_config(self):
        return {"peak": self.peak, "warmup_steps": self.warmup_steps}


@keras.saving.register_keras_serializable("tfgpt")
class WarmupConstant(WarmupSchedule):
    """Warmup, then `peak` for ever."""

    def _after_warmup(self, step):
        return ops.full_like(step, self.peak)


@keras.saving.register_keras_serializable("tfgpt")
class WarmupCosine(WarmupSchedule):
    """Warmup, then half a cosine from `peak` at step `warmup_steps` to `final` at `total_steps` and after.

    Source: Loshchilov and Hutter 2017 (arXiv:1608.03983) without restarts, as in nanoGPT.
    """

    def __init__(self, peak: float, total_steps: int, warmup_steps: int = 0, final: float = 0.0):
        super().__init__(peak, warmup_steps)
        _check("final", final, minimum=0.0)
        _check("total_steps", total_steps, minimum=warmup_steps + 1)
        self.total_steps = int(total_steps)
        self.final = float(final)

    def _after_warmup(self, step):
        progress = (step - self.warmup_steps) / float(self.total_steps - self.warmup_steps)
        progress = ops.clip(progress, 0.0, 1.0)
        return self.final + (self.peak - self.final) * 0.5 * (1.0 + ops.cos(math.pi * progress))

    def get_config(self):
        return {**super().get_config(), "total_steps": self.total_steps, "final": self.final}


@keras.saving.register_keras_serializable("tfgpt")
class WarmupStableDecay(WarmupSchedule):
    """Warmup, then `peak`, then over the last `decay_steps` of `total_steps` down to `final`.

    Sources: Hu et al. 2024 (arXiv:2404.06395, section 4); the decay 1 - sqrt(progress) is the best of those
    tried by Haegele et al. 2024 (arXiv:2405.18392, section 3).

    Args:
        decay: "sqrt" for 1 - sqrt(progress), "linear" for 1 - progress.
    """

    def __init__(
        self,
        peak: float,
        total_steps: int,
        decay_steps: int,
        warmup_steps: int = 0,
        final: float = 0.0,
        decay: str = "sqrt",
    ):
        super().__init__(peak, warmup_steps)
        _check("final", final, minimum=0.0)
        _check("decay_steps", decay_steps, minimum=1)
        _check("total_steps", total_steps, minimum=warmup_steps + decay_steps)
        if decay not in ("sqrt", "linear"):
            raise InputError(f"found decay {decay!r}, expected 'sqrt' or 'linear'")
        self.total_steps = int(total_steps)
        self.decay_steps = int(decay_steps)
        self.final = float(final)
        self.decay = decay

    def _after_warmup(self, step):
        progress = (step - (self.total_steps - self.decay_steps)) / float(self.decay_steps)
        progress = ops.clip(progress, 0.0, 1.0)
        remaining = 1.0 - (ops.sqrt(progress) if self.decay == "sqrt" else progress)
        return self.final + (self.peak - self.final) * remaining

    def get_config(self):
        own = {"total_steps": self.total_steps, "decay_steps": self.decay_steps}
        return {**super().get_config(), **own, "final": self.final, "decay": self.decay}


def _check(name, value, minimum):
    if value < minimum:
        raise InputError(f"found {name}={value} in the schedule, expected at least {minimum}")
