"""Operations that are one call of the backend where nothing compiles the whole.

JAX compiles every primitive that it meets outside of `jax.jit`, each for itself: before the first token of a
GPT-2 there are 45 of them, which take 3 s and 60 MB. Inside a compiled function this changes nothing.
"""

import functools
from collections.abc import Callable

import keras


def as_one_call(*static: str):
    """Makes a function of tensors one call on JAX; TensorFlow, which compiles nothing here, runs it as it is.

    Args:
        static: the names of arguments that are no tensors: hashable, and compiled in.

    A function given as an argument (dropout) has a state of its own, and a `KerasTensor` has no numbers: such
    a call runs as it is, too.
    """

    def decorate(definition: Callable) -> Callable:
        if keras.config.backend() != "jax":
            return definition
        import jax

        compiled = jax.jit(definition, static_argnames=static, inline=True)

        @functools.wraps(definition)
        def call(*args, **kwargs):
            if any(callable(each) or keras.utils.is_keras_tensor(each) for each in (*args, *kwargs.values())):
                return definition(*args, **kwargs)
            named = {name: _tensor_of(each) for name, each in kwargs.items()}
            return compiled(*map(_tensor_of, args), **named)

        return call

    return decorate


def _tensor_of(argument):
    """What a variable holds, in the dtype of the layer that is being called; everything else as it is."""
    return keras.ops.convert_to_tensor(argument) if isinstance(argument, keras.Variable) else argument
