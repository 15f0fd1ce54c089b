"""Weights of the targets of a batch."""

from keras import ops


def element_weights(y, sample_weight):
    """float32 weights with the shape of `y`: ones, or `sample_weight` (`[batch]`, or as `y`) spread out."""
    if sample_weight is None:
        return ops.ones(ops.shape(y), dtype="float32")
    weights = ops.cast(sample_weight, "float32")
    while len(weights.shape) < len(y.shape):
        weights = ops.expand_dims(weights, -1)
    return ops.broadcast_to(weights, ops.shape(y))
