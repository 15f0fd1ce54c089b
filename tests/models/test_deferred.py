"""Variables without values, and how threads that read ahead fill them."""

import threading

import keras
import numpy as np
import pytest

from tfgpt.errors import InputError
from tfgpt.models.deferred import deferred_variables, fill_all

NUM_VARIABLES = 40


def unfilled(dtype: str = "float32") -> dict[str, keras.Variable]:
    with deferred_variables():
        return {str(i): keras.Variable("zeros", shape=(3, 5), dtype=dtype) for i in range(NUM_VARIABLES)}


def value_of(name: str) -> np.ndarray:
    return np.arange(15, dtype="float32").reshape(3, 5) + 100 * int(name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_each_variable_gets_its_own_value(dtype):
    variables = unfilled(dtype)
    fill_all(variables, [(name, lambda name=name: value_of(name)) for name in variables])
    for name, variable in variables.items():
        expected = keras.ops.convert_to_numpy(keras.ops.cast(value_of(name), dtype))
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_variable_takes_aligned_memory_over(python, backend, dtype):
    pytest.importorskip(backend)
    code = f"""
import ml_dtypes
import numpy as np
from tfgpt.checkpoints.arrays import empty_aligned
from tfgpt.models.deferred import deferred_variables, fill
import keras

assert keras.config.backend() == "{backend}"
value = empty_aligned((64, 64), getattr(ml_dtypes, "{dtype}", "{dtype}"))
value[:] = np.arange(64)
with deferred_variables():
    variable = keras.Variable("zeros", shape=(64, 64), dtype="{dtype}")
fill(variable, value)
before = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")).copy()
value[:] = 7  # which nobody may do: it shows whose memory the variable has
after = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
print((before == np.arange(64)).all(), (after == 7).all())
"""
    assert python(code, KERAS_BACKEND=backend).split() == ["True", "True"]


def test_two_tensors_are_read_side_by_side_and_never_a_third():
    variables = unfilled()
    lock, both = threading.Lock(), threading.Barrier(2, timeout=30)
    reading = most = 0

    def read(name):
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        both.wait()  # until a second thread reads, too
        with lock:
            reading -= 1
        return value_of(name)

    fill_all(variables, [(name, lambda name=name: read(name)) for name in variables])
    assert most == 2


def test_the_first_tensor_that_is_wrong_is_the_one_that_is_told():
    variables = unfilled()
    asked = []

    def read(name):
        asked.append(name)
        if int(name) >= 5:
            raise InputError(f"tensor {name} is broken")
        return value_of(name)

    before = threading.active_count()
    with pytest.raises(InputError, match="tensor 5 is broken"):
        fill_all(variables, [(name, lambda name=name: read(name)) for name in variables])
    assert len(asked) < 10  # the rest of a large checkpoint is not read for nothing
    assert threading.active_count() == before
