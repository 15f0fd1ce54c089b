"""Attention in one kernel, where a backend has one that never writes the scores out.

That is cuDNN's, which Keras calls on JAX. TensorFlow has none, and on a CPU XLA gains nothing by it
(docs/experiments.md).
"""

import keras
from keras import ops


def has_fused_attention(dtype) -> bool:
    """Whether `fused_causal_attention` is a kernel of its own here: JAX on a GPU, in half precision."""
    if keras.config.backend() != "jax" or dtype not in ("float16", "bfloat16"):
        return False
    import jax

    return jax.default_backend() == "gpu"


def fused_causal_attention(query, key, value, scale: float):
    """query `[B, S, H, D]`, key and value `[B, S, K, D]` -> context `[B, S, H, D]`.

    Every token sees itself and all before it: nothing is padded, cached or windowed.
    """
    return ops.dot_product_attention(query, key, value, scale=scale, is_causal=True)
