"""tf.data over token shards: element k of training is a pure function of (shards, seed, k).

Nothing is shuffled in a buffer and no state is kept, so resuming is `start_step=k`, exactly and at once, and
any number of workers cut the same global batches. The arithmetic is in windows.py; `training_batch` and
`evaluation_batch` give the same elements as numpy arrays, for other frameworks and for tests.
"""

import numpy as np

from tfgpt.data.shards import TokenShards
from tfgpt.data.windows import EvaluationPlan, WindowPlan
from tfgpt.errors import InputError

# Shards up to this size are held in memory as one tensor, so that batches are cut without touching Python;
# larger ones are read through the memory map, which needs Python's lock for a moment in each block.
IN_MEMORY_BYTES = 2**30

# Steps are computed in blocks, which spreads the cost of a graph call: at most this many tokens and steps.
BLOCK_TOKENS = 2**18
BLOCK_STEPS = 64


def training_batch(
    shards: TokenShards, step: int, context_length: int, batch_size: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Element `step` of `training_dataset`: (token_ids, labels), int32 [batch, length]."""
    plan = WindowPlan(shards.num_tokens, context_length, seed)
    rows = step * batch_size + np.arange(batch_size, dtype=np.int64)
    windows = shards.gather(plan.starts(rows)[:, None] + np.arange(context_length + 1))  # [batch, length + 1]
    return windows[:, :-1], windows[:, 1:]


def training_dataset(
    shards: TokenShards,
    context_length: int,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    num_workers: int = 1,
    worker_index: int = 0,
):
    """An infinite tf.data.Dataset of (token_ids, labels), both int32 [batch, length].

    Labels are the tokens one place on. Every epoch visits the windows in an order of its own; see WindowPlan.

    Args:
        shards: the packed tokens.
        context_length: tokens in a window.
        batch_size: windows in a global batch, over all workers.
        seed: chooses the order.
        start_step: the step of the first element; k elements on from 0 is the same as starting at k.
        num_workers, worker_index: with more than one worker each gets its rows of every global batch, and
            these rows in the order of workers are the global batch. Leave them alone under a tf.distribute
            strategy, which cuts the global batch itself (the dataset carries AutoShardPolicy.DATA for it).

    Raises:
        InputError: fewer tokens than a window and its label, or sizes that do not fit.
    """
    import tensorflow as tf

    plan = WindowPlan(shards.num_tokens, context_length, seed)
    local_size = _local_size(batch_size, start_step, num_workers, worker_index)
    gather = _gather_function(shards)
    block = max(1, min(BLOCK_STEPS, BLOCK_TOKENS // (local_size * (context_length + 1))))

    @tf.autograph.experimental.do_not_convert
    def read_block(first_step):
        steps = first_step + tf.range(block, dtype=tf.int64)  # [steps]
        local_rows = worker_index * local_size + tf.range(local_size, dtype=tf.int64)  # [batch]
        rows = steps[:, None] * batch_size + local_rows  # [steps, batch]
        places = plan.starts(rows)[:, :, None] + tf.range(context_length + 1, dtype=tf.int64)
        windows = gather(places)  # [steps, batch, length + 1]
        return windows[:, :, :-1], windows[:, :, 1:]

    dataset = tf.data.Dataset.counter(start_step, block, dtype=tf.int64)
    dataset = dataset.map(read_block, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.unbatch().apply(
        tf.data.experimental.assert_cardinality(tf.data.experimental.INFINITE_CARDINALITY)
    )
    return dataset.with_options(_options(num_workers)).prefetch(tf.data.AUTOTUNE)


def evaluation_batch(
    shards: TokenShards, number: int, context_length: int, batch_size: int, stride: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Element `number` of `evaluation_dataset` as numpy arrays."""
    plan = EvaluationPlan(shards.num_tokens, context_length, context_length if stride is None else stride)
    windows = number * batch_size + np.arange(batch_size, dtype=np.int64)
    columns = np.arange(context_length)
    places = windows[:, None] * plan.stride + columns  # [batch, length], the places of the labels
    inside = places < shards.num_tokens
    labels = np.where(inside, shards.gather(np.where(inside, places, 0)), 0)
    token_ids = shards.gather(np.clip(places - 1, 0, shards.num_tokens - 1))
    token_ids = np.where(places == 0, _begin_id(shards), np.where(inside, token_ids, 0))
    counted = inside & ((columns >= plan.num_repeated) | (windows[:, None] == 0))
    return token_ids.astype(np.int32), labels.astype(np.int32), counted.astype(np.float32)


def evaluation_dataset(shards: TokenShards, context_length: int, batch_size: int, stride: int | None = None):
    """A finite tf.data.Dataset that predicts every token exactly once.

    Elements are (token_ids int32, labels int32, sample_weight float32), all [batch, length]; the weights are
    1 for what counts and sum to `shards.num_tokens` over the dataset. The last window and the last batch are
    filled up with zeros of weight 0, so that every element has the same shape.

    Args:
        shards: the packed tokens.
        context_length: tokens in a window. A window knows nothing of what stands before it: its first label
            is predicted from one token. The very first token of all is predicted from end-of-text (or from
            id 0 where the vocabulary has none).
        batch_size: windows in a batch.
        stride: how far windows advance; less than `context_length` gives every token after the first window
            at least `context_length - stride` tokens of context, at the price of more windows.
    """
    import tensorflow as tf

    plan = EvaluationPlan(shards.num_tokens, context_length, context_length if stride is None else stride)
    if batch_size < 1:
        raise InputError(f"found batch_size {batch_size}, expected at least 1")
    num_batches = -(-plan.num_windows // batch_size)
    gather = _gather_function(shards)
    columns = tf.range(context_length, dtype=tf.int64)

    @tf.autograph.experimental.do_not_convert
    def read_batch(number):
        windows = (number * batch_size + tf.range(batch_size, dtype=tf.int64))[:, None]
        places = windows * plan.stride + columns  # [batch, length], the places of the labels
        inside = places < shards.num_tokens
        labels = gather(tf.where(inside, places, 0)) * tf.cast(inside, tf.int32)
        token_ids = gather(tf.clip_by_value(places - 1, 0, shards.num_tokens - 1)) * tf.cast(inside, tf.int32)
        token_ids = tf.where(places == 0, _begin_id(shards), token_ids)
        counted = inside & ((columns >= plan.num_repeated) | (windows == 0))
        return token_ids, labels, tf.cast(counted, tf.float32)

    dataset = tf.data.Dataset.range(num_batches)
    dataset = dataset.map(read_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.with_options(_options(num_workers=1)).prefetch(tf.data.AUTOTUNE)


def _begin_id(shards: TokenShards) -> int:
    """What stands before the first token: the end of an earlier document."""
    return 0 if shards.end_of_text_id is None else shards.end_of_text_id


def _local_size(batch_size: int, start_step: int, num_workers: int, worker_index: int) -> int:
    if batch_size < 1 or num_workers < 1 or batch_size % num_workers:
        raise InputError(
            f"found batch_size {batch_size} for {num_workers} workers, expected a multiple of that number"
        )
    if not 0 <= worker_index < num_workers:
        raise InputError(f"found worker_index {worker_index}, expected 0 to {num_workers - 1}")
    if start_step < 0:
        raise InputError(f"found start_step {start_step}, expected 0 or more")
    return batch_size // num_workers


def _gather_function(shards: TokenShards):
    """places int64 tensor -> int32 tensor of the tokens there, from memory or through the memory map."""
    import tensorflow as tf

    if shards.num_tokens * shards.dtype.itemsize <= IN_MEMORY_BYTES:
        with tf.device("/cpu:0"):
            tokens = tf.constant(np.ascontiguousarray(shards.all_tokens()))
        return lambda places: tf.cast(tf.gather(tokens, places), tf.int32)

    def gather(places):
        return tf.ensure_shape(
            tf.numpy_function(shards.gather, [places], tf.int32, stateful=False), places.shape
        )

    return gather


def _options(num_workers: int):
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    # The thread that tunes an infinite dataset is asked to stop only every some seconds: each `fit` would end
    # with a wait of up to 4 s (TensorFlow 2.21).
    options.autotune.enabled = False
    policy = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = policy.DATA if num_workers == 1 else policy.OFF
    return options
