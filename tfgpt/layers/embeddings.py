"""Tables that integers are looked up in: tokens and learned positions."""

import keras

from tfgpt import ops


class Embedding(keras.layers.Layer):
    """A table of vectors: int `[...]` -> `[..., output_dim]`.

    Args:
        input_dim: rows of the table.
        output_dim: width of a row.
        initializer_range: standard deviation of the initial table.
    """

    def __init__(self, input_dim: int, output_dim: int, initializer_range: float = 0.02, **kwargs):
        super().__init__(**kwargs)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.initializer_range = initializer_range

    def build(self, input_shape=None):
        initializer = keras.initializers.RandomNormal(stddev=self.initializer_range)
        self.table = self.add_weight((self.input_dim, self.output_dim), initializer, name="table")
        self.built = True

    def call(self, indices):
        if indices.dtype not in ("int32", "int64"):
            # Token files hold uint16, which TensorFlow cannot look up.
            indices = keras.ops.cast(indices, "int32")
        return ops.lookup(self.table, indices)

    def project(self, x):
        """The table as a tied head: `[..., output_dim]` -> `[..., input_dim]` (Press and Wolf 2017)."""
        return ops.tied_linear(x, self.table)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def get_config(self):
        config = {
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "initializer_range": self.initializer_range,
        }
        return {**super().get_config(), **config}
