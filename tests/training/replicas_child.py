"""Trains the same small model on one device and on two logical CPUs; prints the losses of both as JSON.

Run by test_mirrored_strategy.py in a process of its own: logical devices are made before TensorFlow starts.
"""

import json
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from tfgpt.config import ModelConfig  # noqa: E402
from tfgpt.models.causal_lm import CausalLM  # noqa: E402
from tfgpt.training.optimizer import AdamW  # noqa: E402
from tfgpt.training.schedules import WarmupCosine  # noqa: E402

STEPS, BATCH, LENGTH, VOCABULARY = 8, 8, 8, 65
# Adam's default, 1e-8, makes whole steps out of gradients that are nothing but rounding. Where the products
# of half a batch are summed in another order (CPUs without AVX-512), such weights part by the learning rate.
EPSILON = 1e-4

# Every case: (arguments of AdamW, arguments of compile, other settings).
CASES = {
    "plain": ({}, {}, {}),
    "stock_optimizer": ({"stock": True, "global_clipnorm": 0.1}, {}, {}),
    "clipping_and_steps_per_execution": ({"global_clipnorm": 0.1}, {"steps_per_execution": 4}, {}),
    "clipnorm_micro_batches": ({"clipnorm": 0.01}, {"micro_batches": 2, "steps_per_execution": 4}, {}),
    "sample_weights": ({"global_clipnorm": 0.1}, {"micro_batches": 2}, {"weights": True}),
    "xla": (
        {"global_clipnorm": 0.1},
        {"jit_compile": True, "micro_batches": 2, "steps_per_execution": 2},
        {},
    ),
    "moving_average_and_schedule": ({"use_ema": True, "ema_momentum": 0.9, "schedule": True}, {}, {}),
    "loss_scale_factor": ({"loss_scale_factor": 8.0}, {}, {}),
    "mixed_float16": ({"global_clipnorm": 0.1}, {}, {"dtype": "mixed_float16"}),
    "loss_object_and_metrics": (
        {},
        {
            "loss": "sparse_categorical_crossentropy_from_logits",
            "metrics": ["accuracy"],
            "micro_batches": 2,
        },
        {},
    ),
    "dropout_runs": ({}, {"steps_per_execution": 2}, {"dropout": 0.1}),
}


def dataset(weighted):
    generator = np.random.default_rng(0)
    ids = generator.integers(0, VOCABULARY, (STEPS * BATCH, LENGTH + 1)).astype("int32")
    elements = (ids[:, :-1], ids[:, 1:])
    if weighted:
        elements += (generator.integers(0, 3, (STEPS * BATCH, LENGTH)).astype("float32"),)
    return tf.data.Dataset.from_tensor_slices(elements).batch(BATCH, drop_remainder=True)


def train(strategy, optimizer_options, compile_options, settings):
    options = dict(optimizer_options)
    rate = WarmupCosine(1e-2, total_steps=STEPS, warmup_steps=2) if options.pop("schedule", False) else 1e-2
    kind = keras.optimizers.AdamW if options.pop("stock", False) else AdamW
    compile_options = dict(compile_options)
    if "loss" in compile_options:
        compile_options["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        config = ModelConfig(
            vocabulary_size=VOCABULARY,
            context_length=LENGTH,
            num_layers=2,
            num_heads=2,
            hidden_dim=32,
            tie_embeddings=False,
            dropout=settings.get("dropout", 0.0),
        )
        model = CausalLM(config, dtype=settings.get("dtype"))
        model.compile(kind(rate, epsilon=EPSILON, **options), **compile_options)
    data = dataset(settings.get("weights", False))
    losses = Losses()
    history = model.fit(data, epochs=1, verbose=0, shuffle=False, callbacks=[losses])
    logs = {name: values[0] for name, values in history.history.items()}
    evaluation = model.evaluate(data.take(3), verbose=0, return_dict=True)
    return {
        "running": losses.values,
        "logs": logs,
        "evaluation": evaluation,
        "iterations": int(keras.ops.convert_to_numpy(model.optimizer.iterations)),
    }


class Losses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(logs["loss"]))


def main(names):
    warnings.filterwarnings("ignore", message=".*shuffle.*")
    for name in names:
        case = CASES[name]
        one = train(tf.distribute.get_strategy(), *case)
        two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), *case)
        print(json.dumps({"case": name, "one": one, "two": two}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
