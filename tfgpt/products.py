"""Products of rows with a matrix, as each backend does them best.

`keras.ops.matmul` of rank 3 and 2 is a `tensordot` on TensorFlow, which looks its shapes up at run time, and
a transposed matrix is written out before it is used: 0.4 s for GPT-2's table of tokens, where the product
takes 15 ms. XLA folds both away, TensorFlow by itself does not.
"""

import keras
from keras import ops


def rows_times(x, matrix):
    """x `[..., in]`, matrix `[in, out]` -> `[..., out]`."""
    return _on_rows(_times, x, matrix, matrix.shape[1])


def rows_times_transposed(x, matrix):
    """x `[..., in]`, matrix `[out, in]` -> `[..., out]`."""
    return _on_rows(_times_transposed, x, matrix, matrix.shape[0])


if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    def _times(rows, matrix):
        return tf.linalg.matmul(rows, matrix)

    def _times_transposed(rows, matrix):
        return tf.linalg.matmul(rows, matrix, transpose_b=True)

    def _on_rows(product, x, matrix, width: int):
        """`product` of x seen as `[rows, in]`, since TensorFlow has no product of rank 3 and 2."""
        x, matrix = tf.convert_to_tensor(x), tf.convert_to_tensor(matrix)
        if len(x.shape) == 2:
            return product(x, matrix)
        y = product(tf.reshape(x, [-1, x.shape[-1]]), matrix)
        return ops.reshape(y, (*ops.shape(x)[:-1], width))

else:

    def _times(rows, matrix):
        return ops.matmul(rows, matrix)

    def _times_transposed(rows, matrix):
        # Not the product with a transposed matrix, which outside of a compiled function is a copy of a table.
        return ops.einsum("...i,oi->...o", rows, matrix)

    def _on_rows(product, x, matrix, width: int):
        del width
        return product(x, matrix)
