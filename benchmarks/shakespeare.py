"""nanoGPT's small CPU setting on tinyshakespeare, the same numbers and batches for every side.

Source: https://github.com/karpathy/nanoGPT, README.md, "quick start", the command for a machine without GPU
(config/train_shakespeare_char.py with --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128
--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0), whose README states a validation loss of 1.88.
Only numpy at the top; each model is built by the function that bears its name.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NUM_LAYERS = 4
NUM_HEADS = 4
HIDDEN_DIM = 128
CONTEXT_LENGTH = 64
BATCH_SIZE = 12
NUM_STEPS = 2000

LEARNING_RATE = 1e-3
MINIMUM_LEARNING_RATE = 1e-4
WARMUP_STEPS = 100
BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.1  # on matrices only, tables included
CLIP_NORM = 1.0

PUBLISHED_LOSS = 1.88
SAMPLED_BATCHES = 20  # --eval_iters=20


@dataclass(frozen=True)
class Corpus:
    """Characters as numbers: `train` the first 90 %, `validation` the rest, both int32 [characters]."""

    train: np.ndarray
    validation: np.ndarray
    vocabulary: str


def corpus_path() -> Path:
    """tinyshakespeare's input.txt in ../shared/data beside the repository, or in $TFGPT_DATA."""
    data = Path(os.environ.get("TFGPT_DATA") or Path(__file__).resolve().parents[1] / "../shared/data")
    path = data / "tinyshakespeare" / "input.txt"
    if not path.exists():
        raise SystemExit(
            f"found no {path}, expected tinyshakespeare there, set TFGPT_DATA to the data's directory"
        )
    return path


def load() -> Corpus:
    text = corpus_path().read_text(encoding="utf-8")
    vocabulary = "".join(sorted(set(text)))
    number = {character: index for index, character in enumerate(vocabulary)}
    characters = np.array([number[character] for character in text], np.int32)
    boundary = int(len(characters) * 0.9)
    return Corpus(characters[:boundary], characters[boundary:], vocabulary)


def batches(characters: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` random batches, a pure function of the seed: token_ids, labels int32 [count, batch, length]."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, len(characters) - CONTEXT_LENGTH, (count, BATCH_SIZE, 1))
    places = starts + np.arange(CONTEXT_LENGTH)  # [count, batch, length]
    return characters[places], characters[places + 1]


def learning_rate(step: int) -> float:
    """nanoGPT's get_lr: linear warmup, then a cosine down to the minimum. `step` counts from 0."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / (WARMUP_STEPS + 1)
    progress = min(1.0, (step - WARMUP_STEPS) / (NUM_STEPS - WARMUP_STEPS))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return MINIMUM_LEARNING_RATE + cosine * (LEARNING_RATE - MINIMUM_LEARNING_RATE)


Predict = Callable[
    [np.ndarray], np.ndarray
]  # int32 [batch, length] -> logits float32 [batch, length, vocabulary]


def whole_validation_loss(predict: Predict, characters: np.ndarray, batch_size: int = 64) -> float:
    """Mean loss in nats over every character but the first, each predicted once, in windows side by side.

    The last window is filled up on the right, where causal attention cannot see it, and counts only as far
    as its characters are real. Every batch has the same shape, so that a compiled model compiles once.
    """
    predictions = len(characters) - 1
    step = batch_size * CONTEXT_LENGTH
    padding = -predictions % step
    token_ids = np.pad(characters[:-1], (0, padding)).reshape(-1, batch_size, CONTEXT_LENGTH)
    labels = np.pad(characters[1:], (0, padding)).reshape(-1, batch_size, CONTEXT_LENGTH)
    losses = [_token_losses(predict(token_ids[k]), labels[k]).reshape(-1) for k in range(len(labels))]
    return float(np.mean(np.concatenate(losses)[:predictions], dtype=np.float64))


def sampled_validation_loss(predict: Predict, characters: np.ndarray, seed: int = 1337) -> float:
    """nanoGPT's estimate: the mean loss over 20 random batches."""
    token_ids, labels = batches(characters, SAMPLED_BATCHES, seed)
    losses = [_token_losses(predict(token_ids[k]), labels[k]) for k in range(SAMPLED_BATCHES)]
    return float(np.mean(losses, dtype=np.float64))


def transformers_model(vocabulary_size: int, seed: int = 0):
    """Hugging Face's GPT-2 in PyTorch, freshly initialised, and AdamW with nanoGPT's parameter groups."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=CONTEXT_LENGTH,
        n_embd=HIDDEN_DIM,
        n_layer=NUM_LAYERS,
        n_head=NUM_HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config)
    parameters = list(model.parameters())
    groups = [
        {"params": [each for each in parameters if each.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    # Fused is PyTorch's fastest form on a CPU: 34 steps/s where the default one gives 31 (compiled, 2 cores).
    return model, torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)


def transformers_step(model, optimizer, token_ids, labels, step: int):
    """One training step as in nanoGPT's loop; returns the loss as a tensor.

    `model` may be compiled; token_ids and labels are int64 tensors [batch, length].
    """
    import torch

    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step)
    logits = model(token_ids).logits  # [batch, length, vocabulary]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def tfgpt_model(vocabulary_size: int, seed: int = 0):
    """The same shapes as tfgpt's `CausalLM`, freshly initialised."""
    import keras

    import tfgpt

    keras.utils.set_random_seed(seed)
    config = tfgpt.ModelConfig(
        vocabulary_size=vocabulary_size,
        context_length=CONTEXT_LENGTH,
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
        hidden_dim=HIDDEN_DIM,
        dropout=0.0,
    )
    return tfgpt.CausalLM(config)


def keras_hub_model(vocabulary_size: int, seed: int = 0):
    """KerasHub's `GPT2CausalLM` without its preprocessor: the batches are token ids already."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(seed)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=vocabulary_size,
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
        hidden_dim=HIDDEN_DIM,
        intermediate_dim=4 * HIDDEN_DIM,
        dropout=0.0,
        max_sequence_length=CONTEXT_LENGTH,
    )
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)


def compile_keras(model, steps_per_execution: int) -> None:
    """Compiles either Keras model with the setting's optimizer, plain Keras throughout, and XLA."""
    import keras

    optimizer = keras.optimizers.AdamW(
        keras_learning_rate(),
        weight_decay=WEIGHT_DECAY,
        beta_1=BETAS[0],
        beta_2=BETAS[1],
        epsilon=1e-8,
        global_clipnorm=CLIP_NORM,
    )
    vectors = [variable for variable in model.trainable_variables if len(variable.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=vectors)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
        steps_per_execution=steps_per_execution,
    )


def keras_learning_rate():
    """`learning_rate` as a Keras schedule."""
    import keras

    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=LEARNING_RATE / (WARMUP_STEPS + 1),
        decay_steps=NUM_STEPS - WARMUP_STEPS,
        alpha=MINIMUM_LEARNING_RATE / LEARNING_RATE,
        warmup_target=LEARNING_RATE,
        warmup_steps=WARMUP_STEPS,
    )


def keras_dataset(corpus: Corpus, num_steps: int, seed: int, inputs=lambda token_ids: token_ids):
    """The batches of `batches` as a tf.data.Dataset of (inputs(token_ids), labels)."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(batches(corpus.train, num_steps, seed))
    return dataset.map(lambda token_ids, labels: (inputs(token_ids), labels)).prefetch(tf.data.AUTOTUNE)


def _token_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross entropy in nats, float64 [batch, length]."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, labels[..., None].astype(np.int64), -1)[..., 0]  # [batch, length]
    return np.log(np.exp(logits).sum(-1)) - chosen
