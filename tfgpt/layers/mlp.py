"""The position-wise part of a block."""

import functools

import keras
from keras import ops as keras_ops

from tfgpt import ops
from tfgpt.config import Activation, ModelConfig
from tfgpt.layers.linear import Linear
from tfgpt.layers.mixture import Mixture


def make_activation(config: ModelConfig):
    """The nonlinearity of a model, a function of the hidden states `[..., width of up]`."""
    return {
        Activation.GELU: functools.partial(ops.gelu, approximate=False),
        Activation.GELU_TANH: functools.partial(ops.gelu, approximate=True),
        Activation.RELU: keras_ops.relu,
        Activation.CLAMPED_SWIGLU: functools.partial(
            ops.clamped_swiglu, alpha=config.swiglu_alpha, limit=config.swiglu_limit
        ),
    }[config.activation]


class MLP(keras.layers.Layer):
    """Two linear maps with a nonlinearity between, `[..., E]` -> `[..., E]` (Vaswani et al. 2017, eq. 2).

    A gated nonlinearity takes two numbers for each that it gives, so the first map is twice as wide.
    """

    def __init__(self, config: ModelConfig, **kwargs):
        super().__init__(**kwargs)
        deviation = config.initializer_range
        self.intermediate_dim = config.intermediate_dim
        width = config.intermediate_dim * (2 if config.activation is Activation.CLAMPED_SWIGLU else 1)
        self.up = Linear(width, config.mlp_bias, deviation, name="up", dtype=self.dtype_policy)
        # The maps that write to the residual stream start smaller, by the root of their number
        # (Radford et al. 2019, section 2.3).
        deviation /= (2 * config.num_layers) ** 0.5
        self.down = Linear(
            config.hidden_dim, config.mlp_bias, deviation, name="down", dtype=self.dtype_policy
        )
        self.activation = make_activation(config)

    def build(self, input_shape):
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(self, x):
        return self.down(self.activation(self.up(x)))

    def compute_output_shape(self, input_shape):
        return input_shape


def make_mlp(config: ModelConfig, **kwargs) -> keras.layers.Layer:
    """The position-wise part of a model's blocks: one MLP, or a mixture of experts."""
    return (MLP if config.num_experts is None else Mixture)(config, **kwargs)
