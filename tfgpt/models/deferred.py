"""Models whose variables have shapes but no values yet.

Keras makes such variables inside a `StatelessScope`. They cost no memory: the export stage traces a model
without ever holding its weights, and loading puts each tensor in place without a random one before it.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import keras
import ml_dtypes
import numpy as np
from keras.src.backend.common import global_state  # no public name; see `_forget`

from tfgpt.checkpoints.arrays import cast, laid_out

# Tensors that are read while another becomes a variable. First touching fresh memory is most of what copying
# costs, and two threads do it at twice the speed of one. The memory of loading is promised as the weights and
# two tensors: no more may be under way.
_READ_AHEAD = 2


@contextlib.contextmanager
def deferred_variables():
    """Variables made within the context have no value until `fill` gives them one."""
    with keras.StatelessScope(initialize_variables=False):
        yield
    _forget()


def fill(variable: keras.Variable, value) -> None:
    """Gives a deferred variable its first value (`value`: an array of its shape, cast to its dtype).

    The variable may take the array's memory over: nothing may be written into it afterwards.
    """
    value = laid_out(np.asarray(value), _numpy_dtype(variable.dtype))
    if variable._value is not None:
        variable.assign(value)
        return
    tensor = _as_tensor(value)
    # The variable is initialised from a function, so that distribution strategies can place it.
    variable._initialize_with_initializer(lambda shape, dtype: tensor)
    variable._initializer = None


def fill_all(
    variables: dict[str, keras.Variable], reads: Iterable[tuple[str, Callable[[], np.ndarray]]]
) -> None:
    """Gives deferred variables their values, which threads read, check and lay out while others are filled.

    Args:
        variables: by name.
        reads: a name and a function that reads its value, in the order of filling. What a function raises is
            raised here when its turn comes; the functions after it may have run.

    Raises:
        InputError: a number that would become infinite in the variable's dtype.
    """

    def prepare(name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        return cast(name, read(), _numpy_dtype(variables[name].dtype))

    with ThreadPoolExecutor(_READ_AHEAD, "tfgpt-reading") as pool:
        try:
            pending = deque()
            for name, read in reads:
                pending.append((name, pool.submit(prepare, name, read)))
                if len(pending) > _READ_AHEAD:
                    _fill_first(variables, pending)
            while pending:
                _fill_first(variables, pending)
        finally:
            pool.shutdown(cancel_futures=True)


def _fill_first(variables: dict[str, keras.Variable], pending: deque) -> None:
    name, value = pending.popleft()
    fill(variables[name], value.result())


def fill_with_initializer(variable: keras.Variable) -> None:
    """Gives a deferred variable the value that its own initializer makes."""
    if variable._value is None:
        variable._deferred_initialize()


def _numpy_dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def _as_tensor(value: np.ndarray):
    """The backend's tensor of an aligned array; on TensorFlow, and on JAX's CPU, it is the same memory.

    `tf.convert_to_tensor` copies into memory that the kernel hands out in pages of 4 KB, which takes twenty
    times as long as reading the file into NumPy's, which asks for large pages.
    """
    take_over = _TAKE_OVER.get(keras.backend.backend())
    if take_over is None or not value.size:
        return keras.ops.convert_to_tensor(value)
    return take_over(value)


def _take_over_in_tensorflow(value: np.ndarray):
    import tensorflow as tf

    # DLPack as NumPy speaks it has no bfloat16: it travels as the integers of its bits.
    bits = value.view(np.uint16) if value.dtype == ml_dtypes.bfloat16 else value
    tensor = tf.experimental.dlpack.from_dlpack(bits.__dlpack__())
    return tensor if bits is value else tf.bitcast(tensor, tf.bfloat16)


def _take_over_in_jax(value: np.ndarray):
    import jax

    # On a CPU these are the same memory, on others the copy that there must be.
    return jax.device_put(value, may_alias=True)


_TAKE_OVER = {"tensorflow": _take_over_in_tensorflow, "jax": _take_over_in_jax}


def _forget() -> None:
    # Keras remembers deferred variables and would initialise them when the next StatelessScope closes.
    global_state.set_global_attribute("uninitialized_variables", [])
