"""The linear map."""

import keras

from tfgpt import ops


class Linear(keras.layers.Layer):
    """`x @ kernel + bias`, `[..., in]` -> `[..., units]`.

    Args:
        units: width of the output.
        use_bias: whether a bias, initially zero, is added.
        initializer_range: standard deviation of the initial kernel.
    """

    def __init__(self, units: int, use_bias: bool = True, initializer_range: float = 0.02, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.initializer_range = initializer_range
        self.bias = None

    def build(self, input_shape):
        initializer = keras.initializers.RandomNormal(stddev=self.initializer_range)
        self.kernel = self.add_weight((input_shape[-1], self.units), initializer, name="kernel")
        if self.use_bias:
            self.bias = self.add_weight((self.units,), "zeros", name="bias")
        self.built = True

    def call(self, x):
        return ops.linear(x, self.kernel, self.bias)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        config = {"units": self.units, "use_bias": self.use_bias, "initializer_range": self.initializer_range}
        return {**super().get_config(), **config}
