"""Normalisation layers, and the one that a config asks for."""

import keras

from tfgpt import ops
from tfgpt.config import ModelConfig, Norm


class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the last axis, with scale and offset (Ba et al. 2016)."""

    def __init__(self, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.add_weight((input_shape[-1],), "ones", name="scale")
        self.offset = self.add_weight((input_shape[-1],), "zeros", name="offset")
        self.built = True

    def call(self, x):
        return ops.layer_norm(x, self.scale, self.offset, self.epsilon)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


class RMSNorm(keras.layers.Layer):
    """Root-mean-square normalisation over the last axis, with scale (Zhang and Sennrich 2019)."""

    def __init__(self, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        # In its own dtype also in mixed precision: the operation multiplies before it rounds.
        self.scale = self.add_weight((input_shape[-1],), "ones", name="scale", autocast=False)
        self.built = True

    def call(self, x):
        return ops.rms_norm(x, self.scale, self.epsilon)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


_NORMS = {Norm.LAYER: LayerNorm, Norm.RMS: RMSNorm}


def make_norm(config: ModelConfig, **kwargs) -> keras.layers.Layer:
    """The normalisation layer of a model."""
    return _NORMS[config.norm](config.norm_epsilon, **kwargs)
