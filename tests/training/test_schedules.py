"""Learning rates against numbers worked out by hand."""

import keras
import numpy as np
import pytest

from tfgpt.errors import InputError
from tfgpt.training.schedules import WarmupConstant, WarmupCosine, WarmupStableDecay

# nanoGPT's get_lr with learning_rate 1e-3, min_lr 1e-4, warmup_iters 100, lr_decay_iters 2000:
# step 0: 1e-3 / 101; step 99: 1e-3 * 100 / 101; the middle of the cosine, 1050: (1e-3 + 1e-4) / 2;
# a quarter, 575: 1e-4 + 9e-4 * (1 + cos(pi / 4)) / 2.
COSINE = {
    0: 9.900990e-06,
    99: 9.900990e-04,
    100: 1e-3,
    575: 8.681981e-04,
    1050: 5.5e-4,
    2000: 1e-4,
    3000: 1e-4,
}
# Decay over the last 100 of 1000 steps, from 0.5 to 0.1: 1 - sqrt(0.25) = 0.5 leaves 0.1 + 0.4 * 0.5.
SQRT = {0: 0.25, 1: 0.5, 900: 0.5, 925: 0.3, 1000: 0.1, 2000: 0.1}
LINEAR = {900: 0.5, 925: 0.4, 950: 0.3, 1000: 0.1}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (WarmupCosine(1e-3, total_steps=2000, warmup_steps=100, final=1e-4), COSINE),
        (WarmupStableDecay(0.5, total_steps=1000, decay_steps=100, warmup_steps=1, final=0.1), SQRT),
        (WarmupStableDecay(0.5, total_steps=1000, decay_steps=100, final=0.1, decay="linear"), LINEAR),
        (WarmupConstant(2.0, warmup_steps=3), {0: 0.5, 1: 1.0, 2: 1.5, 3: 2.0, 10**6: 2.0}),
        (WarmupConstant(2.0), {0: 2.0, 5: 2.0}),
    ],
)
def test_rates(schedule, expected):
    found = [float(keras.ops.convert_to_numpy(schedule(step))) for step in expected]
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-6)  # float32
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert [float(keras.ops.convert_to_numpy(again(step))) for step in expected] == found


@pytest.mark.parametrize(
    "make",
    [
        lambda: WarmupCosine(-1.0, 10),
        lambda: WarmupCosine(1.0, 10, warmup_steps=10),
        lambda: WarmupCosine(1.0, 10, final=-1.0),
        lambda: WarmupStableDecay(1.0, 10, decay_steps=9, warmup_steps=2),
        lambda: WarmupStableDecay(1.0, 10, decay_steps=2, decay="cubic"),
        lambda: WarmupConstant(1.0, warmup_steps=-1),
    ],
)
def test_impossible_schedules(make):
    with pytest.raises(InputError, match="found"):
        make()
