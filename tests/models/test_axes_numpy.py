"""Every axis of ModelConfig against a reference written from the equations, in NumPy, token by token."""

import numpy as np
import pytest

import tfgpt
from tests.fixtures.numpy_reference import Reference

BASE = {
    "vocabulary_size": 31,
    "context_length": 24,
    "num_layers": 3,
    "num_heads": 4,
    "hidden_dim": 16,
    "norm_epsilon": 1e-4,
}
CASES = {
    "rms": {"norm": "rms"},
    "post_norm": {"residual": "post_norm"},
    "parallel_one_norm": {"residual": "parallel_one_norm"},
    "parallel_two_norms": {"residual": "parallel_two_norms"},
    "rotary_split": {"positions": "rotary_split"},
    "rotary_split_partial": {"positions": "rotary_split", "rotary_dim": 2, "rotary_base": 50.0},
    "rotary_interleaved": {"positions": "rotary_interleaved", "rotary_base": 100.0},
    "rotary_interleaved_partial": {"positions": "rotary_interleaved", "rotary_dim": 2},
    "grouped_keys": {"num_key_value_heads": 2},
    "one_key_head_rotary": {"num_key_value_heads": 1, "positions": "rotary_split"},
    "score_scale_1": {"score_scale": 1.0},
    "inverse_layer": {"scale_by_inverse_layer": True, "score_scale": 0.7},
    "no_biases": {"attention_bias": False, "attention_output_bias": False, "mlp_bias": False},
    "head_width": {"head_dim": 6, "intermediate_dim": 20},
    "untied_with_bias": {"tie_embeddings": False, "head_bias": True},
    "relu": {"activation": "relu"},
    "gelu": {"activation": "gelu"},
    "banded": {"attention_pattern": ("global", "local"), "window": 3},
    "all_banded": {"attention_pattern": ("local",), "window": 1},
    "two_of_three_banded": {"attention_pattern": ("local", "global", "local"), "window": 5},
}
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=CASES)
def pair(request):
    """(model with random weights, the reference over the same weights)."""
    model = tfgpt.CausalLM(tfgpt.ModelConfig(**{**BASE, **CASES[request.param]}))
    rng = np.random.default_rng(3)
    weights = {}
    for name, variable in model.named_weights().items():
        noise = rng.normal(size=variable.shape)
        value = 1 + 0.3 * noise if name.endswith("/scale") else (0.1 if noise.ndim == 1 else 0.35) * noise
        variable.assign(value)
        weights[name] = np.asarray(variable, np.float64)
    return model, Reference(model.config, weights)


@pytest.mark.parametrize("padding", ["none", "left"])
def test_logits(pair, padding, rng):
    model, reference = pair
    token_ids = rng.integers(0, 31, (2, 9))
    lengths = [9, 9] if padding == "none" else [9, 6]
    mask = np.array([[int(i < n) for i in range(9)] for n in lengths])
    mask = mask[:, ::-1]
    logits = np.asarray(model(token_ids, mask=None if padding == "none" else mask))
    real = mask.astype(bool)
    expected = reference.logits(token_ids, mask)
    np.testing.assert_allclose(logits[real], expected[real], **TOLERANCE)
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize(("capacity", "sizes"), [(None, (1, 7, 1)), (12, (5, 1, 3))])
def test_logits_with_a_cache_and_left_padding(pair, capacity, sizes, rng):
    model, reference = pair
    if capacity is None and model.config.window is None and model.config.positions.value == "learned":
        return  # the kind of cache matters to bands and rotations alone
    token_ids = rng.integers(0, 31, (2, 9))
    mask = np.array([[1] * 9, [0] * 3 + [1] * 6])
    cache, parts, start = model.empty_cache(2, capacity), [], 0
    for size in sizes:
        stop = start + size
        seen = mask[:, :stop] if capacity is None else np.pad(mask[:, :stop], ((0, 0), (0, capacity - stop)))
        part, cache = model(token_ids[:, start:stop], mask=seen, cache=cache)
        parts.append(np.asarray(part))
        start = stop
    real = mask.astype(bool)
    expected = reference.logits(token_ids, mask)
    np.testing.assert_allclose(np.concatenate(parts, axis=1)[real], expected[real], **TOLERANCE)


def test_every_weight_is_used(pair, rng):
    """A gradient of zero everywhere would mean a weight that no output depends on."""
    tf = pytest.importorskip("tensorflow")
    model, _ = pair
    token_ids = rng.integers(0, 31, (2, 9))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(token_ids) ** 3)
    named = model.named_weights()
    gradients = tape.gradient(loss, [variable.value for variable in named.values()])
    for name, gradient in zip(named, gradients, strict=True):
        assert gradient is not None, name
        assert float(tf.reduce_max(tf.abs(tf.convert_to_tensor(gradient)))) > 0, name
