"""One worker (or, without TF_CONFIG, the only process) training a small model; prints its losses as JSON.

Run by test_mirrored_strategy.py.
"""

import json
import os
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf

from tfgpt.config import ModelConfig
from tfgpt.models.causal_lm import CausalLM
from tfgpt.training.optimizer import AdamW
from tfgpt.training.strategy import make_strategy

STEPS, BATCH, LENGTH, VOCABULARY = 8, 8, 8, 65
EPSILON = 1e-4  # as in replicas_child.py: no steps out of rounding


def main():
    warnings.filterwarnings("ignore", message=".*shuffle.*")
    strategy = make_strategy("multi_worker" if "TF_CONFIG" in os.environ else "one_device")
    generator = np.random.default_rng(0)
    ids = generator.integers(0, VOCABULARY, (STEPS * BATCH, LENGTH + 1)).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((ids[:, :-1], ids[:, 1:])).batch(BATCH, drop_remainder=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = data.with_options(options)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = CausalLM(
            ModelConfig(VOCABULARY, LENGTH, num_layers=2, num_heads=2, hidden_dim=32, tie_embeddings=False)
        )
        model.compile(
            AdamW(1e-2, epsilon=EPSILON, global_clipnorm=0.1), micro_batches=2, steps_per_execution=4
        )
    losses = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(float(logs["loss"]))
    )
    history = model.fit(
        data.repeat(),
        validation_data=data.take(4),
        epochs=2,
        steps_per_epoch=STEPS,
        verbose=0,
        shuffle=False,
        callbacks=[record],
    ).history
    print(json.dumps({"running": losses, "history": history}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
