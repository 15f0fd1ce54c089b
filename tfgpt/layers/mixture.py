"""The mixture of experts that takes the place of a block's MLP."""

import keras

from tfgpt.config import ModelConfig
from tfgpt.expert_ops import ExpertWeights, MixtureSpec, mixture_of_experts, route
from tfgpt.layers.linear import Linear


class Mixture(keras.layers.Layer):
    """A router and its experts, `[B, S, E]` -> `[B, S, E]`; see `tfgpt.expert_ops`.

    The loss that balances the load of experts is not covered.
    """

    def __init__(self, config: ModelConfig, **kwargs):
        super().__init__(**kwargs)
        self.spec = MixtureSpec(
            config.num_experts, config.num_experts_per_token, config.swiglu_alpha, config.swiglu_limit
        )
        self.intermediate_dim = config.intermediate_dim
        self.initializer_range = config.initializer_range
        # Writes to the residual stream: scaled as in `MLP`.
        self.output_range = config.initializer_range / (2 * config.num_layers) ** 0.5
        self.router = Linear(
            config.num_experts, True, config.initializer_range, name="router", dtype=self.dtype_policy
        )

    def build(self, input_shape):
        experts, hidden_dim, width = self.spec.num_experts, input_shape[-1], self.intermediate_dim
        self.router.build(input_shape)
        self.up_kernel = self._add("up_kernel", (experts, 2 * width, hidden_dim), self.initializer_range)
        self.up_bias = self._add("up_bias", (experts, 2 * width), 0.0)
        self.down_kernel = self._add("down_kernel", (experts, hidden_dim, width), self.output_range)
        self.down_bias = self._add("down_bias", (experts, hidden_dim), 0.0)
        self.built = True

    def _add(self, name: str, shape: tuple[int, ...], deviation: float):
        # Not cast as a whole when it is read: the operation casts the experts that it takes.
        initializer = keras.initializers.RandomNormal(stddev=deviation)
        return self.add_weight(shape, initializer, name=name, autocast=False)

    def call(self, x):
        weights = ExpertWeights(self.up_kernel, self.up_bias, self.down_kernel, self.down_bias)
        router_logits = route(x, self.router.kernel, self.router.bias)
        return mixture_of_experts(x, router_logits, weights, self.spec)

    def compute_output_shape(self, input_shape):
        return input_shape
