"""Stage 1: a concrete TensorFlow function of the model, in which markers stand for its weights.

The model is built with deferred variables and every weight is a marker, so neither tracing nor converting
ever holds a weight: memory and time do not grow with the model. Arguments would not do: TensorFlow's
optimizer, which the converter runs, makes a tensor of zeros for each of them.
"""

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tfgpt import ops
from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.models.deferred import deferred_variables
from tfgpt_export import lower
from tfgpt_export.lowering import FUSED, Lowering
from tfgpt_export.task import LANGUAGE_MODEL, Task


@dataclass(frozen=True)
class Traced:
    """The traced function, what its arguments are, and which weights it has markers of.

    `function(*inputs)` returns a list in the order of `task.outputs`.
    `weight_shapes`: weight name -> shape, in the model's order.
    """

    task: Task
    function: Any
    specs: list
    weight_shapes: dict[str, tuple[int, ...]]


def trace(config: ModelConfig, lowering: Lowering = FUSED, task: Task = LANGUAGE_MODEL) -> Traced:
    """Traces a task's model of a config, its named operations being what `lowering` makes of them.

    Raises:
        InputError: Keras runs on another backend than TensorFlow.
    """
    if keras.config.backend() != "tensorflow":
        raise InputError(
            f"export runs on the tensorflow backend, found {keras.config.backend()!r}: unset KERAS_BACKEND"
        )
    with deferred_variables():
        # Dropout has no place in an exported graph. Nodes are named after the model, whose name counts the
        # models made before it: with this one the same checkpoint gives the same file, where all of the model
        # is named operations. What tf2onnx adds for others it names otherwise each time.
        config = config.replace(dropout=0.0, attention_dropout=0.0, embedding_dropout=0.0)
        model = task.make(config, dtype="float32", name="model")
    weights = model.named_weights()
    specs = [tf.TensorSpec(tensor.static_shape, tensor.dtype) for tensor in task.inputs(config)]

    @tf.function(input_signature=specs, autograph=False)
    def function(*arguments):
        values = [lower.mark_weight(name, each.shape, each.dtype) for name, each in weights.items()]
        with (
            keras.StatelessScope(zip(weights.values(), values, strict=True), initialize_variables=False),
            ops.replaced(lowering.replacements(config)),
        ):
            return task.call(model, *arguments)

    shapes = {name: tuple(variable.shape) for name, variable in weights.items()}
    return Traced(task, function, specs, shapes)
