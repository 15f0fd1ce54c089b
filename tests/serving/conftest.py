"""A small GPT-2 by hand: as an ONNX graph of the common form, and as NumPy without a cache.

The graph obeys the contract of the export: input_ids, attention_mask, position_ids and
past_key_values.{i}.key|value in, logits and present.{i}.key|value out, dynamic dimensions named as clients
expect. The NumPy model knows nothing of padding, caches or onnxruntime.
"""

import json

import numpy as np
import pytest


class TinyGPT:
    """Random weights of a GPT-2 with `num_layers` layers, 3 heads of 8, context 48."""

    num_heads, head_dim, vocabulary_size, context_length = 3, 8, 97, 48

    def __init__(self, num_layers=2, seed=0):
        self.num_layers = num_layers
        random = np.random.default_rng(seed)
        width = self.num_heads * self.head_dim

        def weight(*shape):
            return (random.normal(size=shape) * 0.3).astype(np.float32)

        self.weights = {"wte": weight(self.vocabulary_size, width), "wpe": weight(self.context_length, width)}
        self.weights |= {"norm_scale": 1 + weight(width), "norm_bias": weight(width)}
        for layer in range(num_layers):
            shapes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width)}
            shapes["down"] = (4 * width, width)
            for name, shape in shapes.items():
                self.weights[f"{layer}.{name}.kernel"] = weight(*shape)
                self.weights[f"{layer}.{name}.bias"] = weight(shape[1])
            for name in ("norm_1", "norm_2"):
                self.weights[f"{layer}.{name}.scale"] = 1 + weight(width)
                self.weights[f"{layer}.{name}.bias"] = weight(width)

    def logits(self, token_ids):
        """The definition, in float64, of one row without padding: [length] -> [length, vocabulary]."""
        w = {name: value.astype(np.float64) for name, value in self.weights.items()}
        length = len(token_ids)
        x = w["wte"][token_ids] + w["wpe"][:length]
        future = np.triu(np.full((length, length), -np.inf), 1)
        for layer in range(self.num_layers):

            def linear(name, value, layer=layer):
                return value @ w[f"{layer}.{name}.kernel"] + w[f"{layer}.{name}.bias"]

            def norm(name, value, layer=layer):
                return _norm(value, w[f"{layer}.{name}.scale"], w[f"{layer}.{name}.bias"])

            heads = linear("qkv", norm("norm_1", x)).reshape(length, 3, self.num_heads, self.head_dim)
            query, key, value = heads.transpose(1, 2, 0, 3)  # each [heads, length, head_dim]
            scores = query @ key.transpose(0, 2, 1) / np.sqrt(self.head_dim) + future
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            context = weights / weights.sum(-1, keepdims=True) @ value
            x = x + linear("out", context.transpose(1, 0, 2).reshape(length, -1))
            up = linear("up", norm("norm_2", x))
            gelu = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
            x = x + linear("down", gelu)
        return _norm(x, w["norm_scale"], w["norm_bias"]) @ w["wte"].T

    def greedy(self, prompt, count):
        """The `count` most probable tokens after the prompt, each from a computation of the whole text."""
        token_ids = list(prompt)
        for _ in range(count):
            token_ids.append(int(self.logits(token_ids)[-1].argmax()))
        return tuple(token_ids[len(prompt) :])

    def save(self, directory, file="model.onnx", shared_cache=True, dtype=np.float32, config=None):
        """Writes an export directory, or one more graph into it."""
        import onnx

        (directory / "onnx").mkdir(parents=True, exist_ok=True)
        onnx.save_model(GraphBuilder(self, shared_cache, dtype).model(), directory / "onnx" / file)
        if config is None:
            config = {
                "model_type": "gpt2",
                "n_positions": self.context_length,
                "vocab_size": self.vocabulary_size,
            }
        (directory / "config.json").write_text(json.dumps(config))
        return directory


def _norm(x, scale, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale + bias


class GraphBuilder:
    """`TinyGPT` as ONNX: with GroupQueryAttention, or with standard operators and a concatenated cache."""

    def __init__(self, tiny, shared_cache, dtype):
        from onnx import TensorProto, helper, numpy_helper

        self.tiny, self.shared_cache, self.dtype = tiny, shared_cache, dtype
        self.helper, self.int32 = helper, TensorProto.INT32
        self.int64 = TensorProto.INT64
        self.float = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.tensor = numpy_helper.from_array
        self.nodes, self.constants = [], []

    def constant(self, value, dtype=None):
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.tensor(np.array(value, dtype or self.dtype, order="C"), name))
        return name

    def weight(self, name):
        return self.constant(self.tiny.weights[name])

    def op(self, kind, *inputs, outputs=None, **attributes):
        outputs = outputs or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(self.helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs[0]

    def size(self, name, axis):
        """One dimension, as int64 [1]."""
        return self.op("Gather", self.op("Shape", name), self.constant([axis], np.int64))

    def linear(self, name, value):
        product = self.op("MatMul", value, self.weight(name + ".kernel"))
        return self.op("Add", product, self.weight(name + ".bias"))

    def norm(self, value, scale, bias):
        return self.op("LayerNormalization", value, self.weight(scale), self.weight(bias), epsilon=1e-5)

    def model(self):
        sizes = [self.size("input_ids", 0), self.size("input_ids", 1), self.size("attention_mask", 1)]
        bias = self.padding_bias(*sizes)
        self.token_table = self.weight("wte")
        positions = self.op("Gather", self.weight("wpe"), "position_ids")
        x = self.op("Add", self.op("Gather", self.token_table, "input_ids"), positions)
        for layer in range(self.tiny.num_layers):
            attention = self.grouped_attention if self.shared_cache else self.standard_attention
            normed = self.norm(x, f"{layer}.norm_1.scale", f"{layer}.norm_1.bias")
            context = attention(layer, self.linear(f"{layer}.qkv", normed), bias, *sizes)
            x = self.op("Add", x, self.linear(f"{layer}.out", context))
            normed = self.norm(x, f"{layer}.norm_2.scale", f"{layer}.norm_2.bias")
            up = self.op("FastGelu", self.linear(f"{layer}.up", normed), domain="com.microsoft")
            x = self.op("Add", x, self.linear(f"{layer}.down", up))
        x = self.norm(x, "norm_scale", "norm_bias")
        self.op("MatMul", x, self.constant(self.tiny.weights["wte"].T), outputs=["logits"])
        return self.finished()

    def padding_bias(self, batch, length, total):
        """(1 - mask) times a large negative number, float [batch, 1, length, total]."""
        mask = self.op("Cast", "attention_mask", to=self.float)
        padding = self.op("Sub", self.constant(1), mask)
        lowest = -1e9 if self.dtype == np.float32 else -6e4
        bias = self.op(
            "Unsqueeze", self.op("Mul", padding, self.constant(lowest)), self.constant([1, 2], np.int64)
        )
        shape = self.op("Concat", batch, self.constant([1], np.int64), length, total, axis=0)
        return self.op("Expand", bias, shape)

    def grouped_attention(self, layer, qkv, bias, batch, length, total):
        total32 = self.op("Cast", self.op("Squeeze", total), to=self.int32)
        last = self.op("Expand", self.op("Sub", total32, self.constant(1, np.int32)), batch)
        past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        return self.op(
            *("GroupQueryAttention", qkv, "", "", *past, last, total32, "", "", "", bias),
            outputs=[f"context_{layer}", f"present.{layer}.key", f"present.{layer}.value"],
            domain="com.microsoft",
            num_heads=self.tiny.num_heads,
            kv_num_heads=self.tiny.num_heads,
        )

    def standard_attention(self, layer, qkv, bias, batch, length, total):
        heads = self.constant([0, 0, 3, self.tiny.num_heads, self.tiny.head_dim], np.int64)
        split = self.op("Transpose", self.op("Reshape", qkv, heads), perm=[2, 0, 3, 1, 4])
        query, key, value = (self.op("Gather", split, self.constant(i, np.int64), axis=0) for i in range(3))
        presents = []
        for kind, new in (("key", key), ("value", value)):
            outputs = [f"present.{layer}.{kind}"]
            past = f"past_key_values.{layer}.{kind}"
            presents.append(self.op("Concat", past, new, outputs=outputs, axis=2))
        transposed = self.op("Transpose", presents[0], perm=[0, 1, 3, 2])
        scores = self.op("MatMul", query, transposed)
        scores = self.op("Mul", scores, self.constant(self.tiny.head_dim**-0.5))
        # Query i of the new columns may see the columns up to past + i.
        shape = self.op("Concat", length, total, axis=0)
        ones = self.op("Expand", self.constant(1, np.int64), shape)
        past_size = self.op("Squeeze", self.op("Sub", total, length))
        visible = self.op("Cast", self.op("Trilu", ones, past_size, upper=0), to=self.float)
        future = self.op("Mul", self.op("Sub", self.constant(1), visible), self.constant(-1e9))
        scores = self.op("Add", self.op("Add", scores, future), bias)
        context = self.op("MatMul", self.op("Softmax", scores, axis=-1), presents[1])
        width = self.constant([0, 0, self.tiny.num_heads * self.tiny.head_dim], np.int64)
        return self.op("Reshape", self.op("Transpose", context, perm=[0, 2, 1, 3]), width)

    def finished(self):
        helper, tiny = self.helper, self.tiny
        total = "past_sequence_length + sequence_length"

        def value(name, kind, *shape):
            return helper.make_tensor_value_info(name, kind, ["batch_size", *shape])

        inputs = [
            value("input_ids", self.int64, "sequence_length"),
            value("attention_mask", self.int64, total),
            value("position_ids", self.int64, "sequence_length"),
        ]
        outputs = [value("logits", self.float, "sequence_length", tiny.vocabulary_size)]
        for layer in range(tiny.num_layers):
            for kind in ("key", "value"):
                shapes = [(tiny.num_heads, size, tiny.head_dim) for size in ("past_sequence_length", total)]
                inputs.append(value(f"past_key_values.{layer}.{kind}", self.float, *shapes[0]))
                outputs.append(value(f"present.{layer}.{kind}", self.float, *shapes[1]))
        graph = helper.make_graph(self.nodes, "tiny", inputs, outputs, initializer=self.constants)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        helper.set_model_props(model, {"tfgpt.shared_cache": "1"} if self.shared_cache else {})
        return model


@pytest.fixture(scope="session")
def tiny_gpt():
    """The class, for tests that want other sizes."""
    return TinyGPT


@pytest.fixture(scope="session")
def tiny():
    """Two layers."""
    return TinyGPT()


@pytest.fixture(scope="session")
def exported(tiny, tmp_path_factory):
    """An export directory with a shared cache; read only."""
    return tiny.save(tmp_path_factory.mktemp("exported"))
