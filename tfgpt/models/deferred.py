"""Models whose variables have shapes but no values yet.

Keras makes such variables inside a `StatelessScope`. They cost no memory: the export stage traces a model
without ever holding its weights, and loading puts each tensor in place without a random one before it.
"""

import contextlib

import keras
from keras.src.backend.common import global_state  # no public name; see `_forget`


@contextlib.contextmanager
def deferred_variables():
    """Variables made within the context have no value until `fill` gives them one."""
    with keras.StatelessScope(initialize_variables=False):
        yield
    _forget()


def fill(variable: keras.Variable, value) -> None:
    """Gives a deferred variable its first value (`value`: an array of its shape, cast to its dtype)."""
    if variable._value is not None:
        variable.assign(value)
        return
    # The variable is initialised from a function, so that distribution strategies can place it.
    variable._initialize_with_initializer(lambda shape, dtype: keras.ops.convert_to_tensor(value, dtype))
    variable._initializer = None


def fill_with_initializer(variable: keras.Variable) -> None:
    """Gives a deferred variable the value that its own initializer makes."""
    if variable._value is None:
        variable._deferred_initialize()


def _forget() -> None:
    # Keras remembers deferred variables and would initialise them when the next StatelessScope closes.
    global_state.set_global_attribute("uninitialized_variables", [])
