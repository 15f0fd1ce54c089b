"""Every axis of ModelConfig against a reference written from the equations, in NumPy, token by token."""

import math

import numpy as np
import pytest

import tfgpt

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


class Reference:
    """One token at a time, one query at a time, float64; `weights` by their tfgpt names."""

    def __init__(self, config, weights):
        self.config, self.weights = config, weights

    def logits(self, token_ids, mask):
        """[batch, length, vocabulary]; rows of `mask` may begin or end with zeros."""
        return np.stack(
            [self._row(ids, real.astype(bool)) for ids, real in zip(token_ids, mask, strict=True)]
        )

    def _row(self, ids, real):
        config = self.config
        positions = [max(int(real[: i + 1].sum()) - 1, 0) for i in range(len(ids))]
        x = self.weights["decoder/token_embedding/table"][ids]
        if config.positions.value == "learned":
            x = x + self.weights["decoder/position_embedding/table"][positions]
        for layer in range(config.num_layers):
            x = self._block(x, layer, positions, real)
        if config.residual.value != "post_norm":
            x = self._norm(x, "decoder/final_norm")
        if config.tie_embeddings:
            return x @ self.weights["decoder/token_embedding/table"].T
        return self._linear(x, "head")

    def _block(self, x, layer, positions, real):
        name = f"decoder/block_{layer}"
        kind = self.config.residual.value
        if kind == "pre_norm":
            x = x + self._attention(self._norm(x, f"{name}/attention_norm"), layer, positions, real)
            return x + self._mlp(self._norm(x, f"{name}/mlp_norm"), name)
        if kind == "post_norm":
            x = self._norm(x + self._attention(x, layer, positions, real), f"{name}/attention_norm")
            return self._norm(x + self._mlp(x, name), f"{name}/mlp_norm")
        normed = self._norm(x, f"{name}/attention_norm")
        fed = normed if kind == "parallel_one_norm" else self._norm(x, f"{name}/mlp_norm")
        return x + self._attention(normed, layer, positions, real) + self._mlp(fed, name)

    def _attention(self, x, layer, positions, real):
        config, name = self.config, f"decoder/block_{layer}/attention"
        heads, groups, width = config.num_heads, config.num_key_value_heads, config.head_dim
        qkv = self._linear(x, f"{name}/qkv").reshape(len(x), heads + 2 * groups, width)
        query, key, value = qkv[:, :heads], qkv[:, heads : heads + groups], qkv[:, heads + groups :]
        scale = config.score_scale if config.score_scale is not None else 1 / math.sqrt(width)
        if config.scale_by_inverse_layer:
            scale /= layer + 1
        kind = config.attention_pattern[layer % len(config.attention_pattern)].value
        window = config.window if kind == "local" else len(x)
        context = np.zeros((len(x), heads, width))
        for i in range(len(x)):
            visible = [j for j in range(len(x)) if j <= i and i - j < window and real[j]]
            for head in range(heads):
                group = head // (heads // groups)
                turned = self._turn(query[i, head], positions[i])
                scores = [scale * float(turned @ self._turn(key[j, group], positions[j])) for j in visible]
                total = sum(math.exp(score) for score in scores)
                for j, score in zip(visible, scores, strict=True):
                    context[i, head] += math.exp(score) / total * value[j, group]
        return self._linear(context.reshape(len(x), heads * width), f"{name}/output")

    def _turn(self, vector, position):
        config = self.config
        if config.positions.value == "learned":
            return vector
        size = config.rotary_dim or config.head_dim
        turned = vector.copy()
        for pair in range(size // 2):
            angle = position * config.rotary_base ** (-2 * pair / size)
            interleaved = config.positions.value == "rotary_interleaved"
            a, b = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + size // 2)
            turned[a] = vector[a] * math.cos(angle) - vector[b] * math.sin(angle)
            turned[b] = vector[a] * math.sin(angle) + vector[b] * math.cos(angle)
        return turned

    def _mlp(self, x, name):
        function = {
            "gelu": lambda z: z * 0.5 * (1 + math.erf(z / math.sqrt(2))),
            "gelu_tanh": lambda z: 0.5 * z * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
            "relu": lambda z: max(z, 0.0),
        }[self.config.activation.value]
        return self._linear(np.vectorize(function)(self._linear(x, f"{name}/mlp/up")), f"{name}/mlp/down")

    def _norm(self, x, name):
        if self.config.norm.value == "rms":
            mean_square = (x**2).mean(axis=-1, keepdims=True)
            return x / np.sqrt(mean_square + self.config.norm_epsilon) * self.weights[f"{name}/scale"]
        centred = x - x.mean(axis=-1, keepdims=True)
        y = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.config.norm_epsilon)
        return y * self.weights[f"{name}/scale"] + self.weights[f"{name}/offset"]

    def _linear(self, x, name):
        return x @ self.weights[f"{name}/kernel"] + self.weights.get(f"{name}/bias", 0.0)


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
