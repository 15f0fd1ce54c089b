"""The position-wise part of a block."""

import functools

import keras
from keras import ops as keras_ops

from tfgpt import ops
from tfgpt.config import Activation, ModelConfig
from tfgpt.layers.linear import Linear

_ACTIVATIONS = {
    Activation.GELU: functools.partial(ops.gelu, approximate=False),
    Activation.GELU_TANH: functools.partial(ops.gelu, approximate=True),
    Activation.RELU: keras_ops.relu,
}


class MLP(keras.layers.Layer):
    """Two linear maps with a nonlinearity between, `[..., E]` -> `[..., E]` (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, config: ModelConfig, **kwargs):
        super().__init__(**kwargs)
        deviation = config.initializer_range
        self.up = Linear(
            config.intermediate_dim, config.mlp_bias, deviation, name="up", dtype=self.dtype_policy
        )
        # The maps that write to the residual stream start smaller, by the root of their number
        # (Radford et al. 2019, section 2.3).
        deviation /= (2 * config.num_layers) ** 0.5
        self.down = Linear(
            config.hidden_dim, config.mlp_bias, deviation, name="down", dtype=self.dtype_policy
        )
        self.activation = _ACTIVATIONS[config.activation]

    def build(self, input_shape):
        self.up.build(input_shape)
        self.down.build(self.up.compute_output_shape(input_shape))
        self.built = True

    def call(self, x):
        return self.down(self.activation(self.up(x)))

    def compute_output_shape(self, input_shape):
        return input_shape
