"""Perplexity and bits per byte, against numbers worked out by hand and NumPy."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt.config import ModelConfig
from tfgpt.evaluation.perplexity import Score, evaluate
from tfgpt.models.causal_lm import CausalLM


def make_model():
    keras.utils.set_random_seed(0)
    return CausalLM(ModelConfig(11, 6, 2, 2, 32, dropout=0.5))


def test_a_model_that_knows_nothing():
    model = make_model()
    for variable in model.trainable_variables:
        variable.assign(np.zeros(variable.shape, "float32"))
    ids = np.arange(12, dtype="int32").reshape(2, 6) % 11
    score = evaluate(model, tf.data.Dataset.from_tensors((ids, ids)), num_bytes=24)
    assert score.num_tokens == 12
    assert score.perplexity == pytest.approx(11.0, rel=1e-6)
    # 12 tokens of log2(11) bits each, on 24 bytes.
    assert score.bits_per_byte == pytest.approx(12 * math.log2(11) / 24, rel=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_every_token_counts_once_whatever_its_batch(jit):
    model = make_model()
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, 11, (2, 7, 6)).astype("int32")
    weights = rng.integers(0, 2, (7, 6)).astype("float32")
    weights[:3] = 0  # a whole batch without a token that counts, and a last one that is smaller
    data = tf.data.Dataset.from_tensor_slices((ids, labels, weights)).batch(3)
    score = evaluate(model, data, jit=jit)
    logits = np.asarray(model(ids), "float64")
    log_sum = np.log(np.exp(logits).sum(-1))
    losses = log_sum - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    assert score.num_tokens == weights.sum()
    assert score.loss == pytest.approx((losses * weights).sum() / weights.sum(), abs=1e-6)
    assert score.bits_per_byte is None
    model.compile("sgd")
    assert model.evaluate(data, verbose=0) == pytest.approx(score.loss, abs=1e-6)


def test_nothing_to_predict():
    ids = np.zeros((2, 6), "int32")
    with pytest.raises(ValueError, match="no token"):
        evaluate(make_model(), tf.data.Dataset.from_tensors((ids, ids, np.zeros((2, 6), "float32"))))


def test_scores_as_json():
    score = Score(loss=math.log(4.0), num_tokens=10, num_bytes=20)
    expected = {
        "loss": score.loss,
        "num_tokens": 10,
        "num_bytes": 20,
        "perplexity": 4.0,
        "bits_per_byte": 1.0,
    }
    assert score.as_dict() == pytest.approx(expected)
    assert Score(1e6, 1).perplexity == math.inf
