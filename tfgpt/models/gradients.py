"""Gradients on TensorFlow before an optimizer sees them: dense, summed over replicas, measured."""

import tensorflow as tf


def densify(gradient):
    """A `tf.IndexedSlices` as a dense tensor with repeated rows added up; anything else as it is.

    Keras optimizers never add repeated rows, and so feed Adam's second moment sum(g_i ** 2) instead of
    (sum g_i) ** 2: an embedding that is not tied to the head then trains differently than on JAX.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])


def all_reduce_sum(tensors):
    """Sums each tensor over the replicas, in replica context; entries that are None stay None."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return list(tensors)
    present = [tensor for tensor in tensors if tensor is not None]
    reduced = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if tensor is None else next(reduced) for tensor in tensors]


def global_norm(gradients):
    """Euclidean norm over all gradients, a float32 scalar; written as Keras does, so that graphs share it."""
    squares = [tf.reduce_sum(tf.square(tf.cast(g, tf.float32))) for g in gradients if g is not None]
    return tf.sqrt(tf.reduce_sum(tf.stack(squares)))


def take_reduced_gradients(optimizer):
    """Tells an optimizer that its gradients arrive summed over the replicas: it must not sum again."""
    optimizer.gradients_are_reduced = True
    optimizer._all_reduce_sum_gradients = list
