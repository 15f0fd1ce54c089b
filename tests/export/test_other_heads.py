"""Models with other heads than a language model's: traced, converted, quantized and run like it.

tfgpt has no task heads yet. These stand for them: one answers for a whole row, by its last real token, one
in the manner of BERT's pooler by the first, and one for every token, with two outputs. All are called as the
clients of such graphs call them: ids and mask, no positions and no cache.
"""

import dataclasses

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from tfgpt_export.convert import LoweringError, convert
from tfgpt_export.half import half_graph, half_tensor
from tfgpt_export.lowering import FUSED, PORTABLE
from tfgpt_export.plan import form_chooser
from tfgpt_export.quantize import quantize_graph
from tfgpt_export.signature import BATCH, LENGTH, TOKEN_INPUTS, Tensor
from tfgpt_export.task import Task
from tfgpt_export.trace import trace
from tfgpt_export.weights import write_model

import tfgpt
from tfgpt import ops
from tfgpt.layers.linear import Linear
from tfgpt.layers.norms import LayerNorm
from tfgpt.models.decoder import Decoder

LABELS = 3
# Outputs go up to 3. Sums of float32 in another order: 2e-6 found. float16 has steps of 0.002: 0.0016 found.
SAME, SAME_IN_HALF = 1e-5, 4e-3
SIZES = {"vocabulary_size": 96, "context_length": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 64}
CONFIGS = {
    "learned positions": tfgpt.ModelConfig(**SIZES),
    "rotary, windows": tfgpt.ModelConfig(
        **SIZES,
        positions="rotary_split",
        attention_pattern=("local", "global"),
        window=5,
        num_key_value_heads=1,
    ),
    "sinks, RMS norm, experts": tfgpt.ModelConfig(
        **SIZES,
        positions="rotary_split",
        norm="rms",
        activation="clamped_swiglu",
        num_experts=4,
        num_experts_per_token=2,
        attention_sinks=True,
        num_key_value_heads=1,
    ),
}
INPUTS = (TOKEN_INPUTS[0], Tensor("attention_mask", "int64", (BATCH, LENGTH)))


class Classifier(keras.Model):
    """Decoder and a linear head on the last real token of each row, `[B, labels]`."""

    rows = slice(None)  # that it can answer for

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.supports_masking = True
        self.decoder = Decoder(config, name="decoder", dtype=self.dtype_policy)
        self.head = Linear(LABELS, use_bias=False, name="head", dtype=self.dtype_policy)
        self.build((None, None))

    def build(self, input_shape):
        self.decoder.build(input_shape)
        self.head.build((*input_shape, self.config.hidden_dim))
        self.built = True

    def call(self, token_ids, mask):
        hidden, _ = self.decoder(token_ids, mask=mask)
        return self.answer(hidden, mask)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def answer(self, hidden, mask):
        slots = keras.ops.arange(keras.ops.shape(mask)[1], dtype=mask.dtype)
        last = keras.ops.max(mask * slots, axis=1)
        return [self.head(tf.gather(hidden, last, batch_dims=1))]

    def named_weights(self):
        return {variable.path.split(f"{self.name}/", 1)[1]: variable for variable in self.weights}


class Pooler(Classifier):
    """A norm, a linear map and GELU on the first token, then the head."""

    rows = slice(0, 2)  # at the first slot of the third is padding

    def __init__(self, config, **kwargs):
        self.config = config
        super().__init__(config, **kwargs)

    def build(self, input_shape):
        width = self.config.hidden_dim
        own = {"dtype": self.dtype_policy}
        self.norm, self.pool = LayerNorm(1e-5, name="norm", **own), Linear(width, name="pool", **own)
        for layer in (self.norm, self.pool):
            layer.build((None, width))
        super().build(input_shape)

    def answer(self, hidden, mask):
        first = keras.ops.take(hidden, 0, axis=1)
        return [self.head(ops.gelu(self.pool(self.norm(first)), approximate=False))]


class SpanFinder(Classifier):
    """Decoder and two numbers for every token, each an output `[B, S]`."""

    def answer(self, hidden, mask):
        return keras.ops.unstack(self.head(hidden)[..., :2], axis=-1)


@dataclasses.dataclass
class Case:
    model: keras.Model
    task: Task


def call(model, token_ids, mask):
    return model(token_ids, mask)


def task_of(make, *outputs, **more):
    return Task(make, lambda config: INPUTS, lambda config: outputs, call, {"MatMul": 1} | more)


TASKS = {
    "row": task_of(Classifier, Tensor("logits", "float32", (BATCH, LABELS))),
    "pooled": task_of(
        Pooler,
        Tensor("logits", "float32", (BATCH, LABELS)),
        MatMul=2,
        LayerNormalization=1,
        Gelu=1,
        Gather=1,
    ),
    "span": task_of(
        SpanFinder,
        Tensor("start_logits", "float32", (BATCH, LENGTH)),
        Tensor("end_logits", "float32", (BATCH, LENGTH)),
    ),
}


@pytest.fixture(scope="module", params=[(task, config) for task in TASKS for config in CONFIGS], ids=" ".join)
def case(request):
    """A task's model with random weights, norms and biases included."""
    task, config = request.param
    model = TASKS[task].make(CONFIGS[config], dtype="float32", name="model")
    draw = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(np.asarray(variable) + draw.normal(0, 0.1, variable.shape))
    return Case(model, TASKS[task])


def feeds():
    """Three rows: whole, padded on the right, padded on the left."""
    mask = np.ones((3, 11), np.int64)
    mask[1, 7:] = mask[2, :4] = 0
    token_ids = np.random.default_rng(1).integers(0, SIZES["vocabulary_size"], mask.shape)
    return {"input_ids": token_ids, "attention_mask": mask}


def written(graph, tensors, path):
    write_model(graph, tensors, path, 0)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask"]
    return session


def assert_answers(session, model, tolerance):
    """What the file gives is what Keras gives, wherever there is a token; and a row by itself the same."""
    fed = feeds()
    expected = [
        np.asarray(each) for each in model(**{"token_ids": fed["input_ids"], "mask": fed["attention_mask"]})
    ]
    found = session.run(None, fed)
    assert len(found) == len(expected)
    for each, wanted in zip(found, expected, strict=True):
        assert each.shape == wanted.shape
        real = fed["attention_mask"].astype(bool) if wanted.shape == fed["input_ids"].shape else model.rows
        np.testing.assert_allclose(each[real], wanted[real], atol=tolerance, rtol=0)
    row = fed["input_ids"][1:2, :7]
    alone = session.run(None, {"input_ids": row, "attention_mask": np.ones_like(row)})
    for each, wanted in zip(alone, expected, strict=True):
        wanted = wanted[1:2, :7] if wanted.shape == fed["input_ids"].shape else wanted[1:2]
        np.testing.assert_allclose(each, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("lowering", [FUSED, PORTABLE], ids=["fused", "portable"])
def test_float32(case, lowering, tmp_path):
    config = case.model.config
    traced = trace(config, lowering, case.task)
    graph = convert(traced, config, lowering)
    weights = {name: np.asarray(variable) for name, variable in case.model.named_weights().items()}
    assert list(traced.weight_shapes) == list(weights)
    session = written(graph, weights.items(), tmp_path / "model.onnx")
    assert [each.name for each in session.get_outputs()] == [each.name for each in case.task.outputs(config)]
    assert_answers(session, case.model, SAME)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_smaller(case, precision, tmp_path, monkeypatch):
    """Rounded weights in Keras, too, and with kernels that do not round activations: the same numbers."""
    monkeypatch.setattr("tfgpt_export.quantize.ACCURACY_LEVEL", 1)
    config = case.model.config
    traced = trace(config, task=case.task)
    graph = convert(traced, config)
    weights = {name: np.asarray(variable) for name, variable in case.model.named_weights().items()}
    rounded = case.task.make(config, dtype="float32", name="model")
    if precision == "fp16":
        graph = half_graph(graph)
        tensors = {name: half_tensor(name, weight) for name, weight in weights.items()}
        values = tensors
    else:
        graph, plan = quantize_graph(graph, traced.weight_shapes, form_chooser(precision, config))
        assert {"decoder/token_embedding/table", "head/kernel"} < set(plan.forms)
        assert all(name.startswith("decoder/block_") for name in plan.by_row)
        parts = {name: dict(plan.tensors(name, lambda name=name: weights[name])) for name in weights}
        tensors = {name: tensor for part in parts.values() for name, tensor in part.items()}
        values = {
            name: plan.rounded(name, weights[name].shape, *part.values())
            if name in plan.forms
            else part[name]
            for name, part in parts.items()
        }
    for name, variable in rounded.named_weights().items():
        variable.assign(values[name])
    session = written(graph, tensors.items(), tmp_path / "model.onnx")
    assert_answers(session, rounded, SAME_IN_HALF if precision == "fp16" else SAME)


def test_a_head_with_other_products_than_it_says_is_a_defect():
    config = CONFIGS["learned positions"]
    says_none = dataclasses.replace(TASKS["row"], head_operators={})
    with pytest.raises(LoweringError, match="MatMul"):
        convert(trace(config, task=says_none), config)


def test_what_onnx_has_no_operator_for_is_named():
    config = CONFIGS["learned positions"]
    task = dataclasses.replace(
        TASKS["row"], call=lambda model, *inputs: [tf.math.lgamma(each) for each in call(model, *inputs)]
    )
    with pytest.raises(LoweringError, match=r"found Lgamma .* no operator of opset 20"):
        convert(trace(config, task=task), config)


def test_an_operator_that_is_newer_than_the_file_is_named():
    """BitwiseAnd is of opset 18, the portable graph of 17."""
    config = CONFIGS["learned positions"]

    def call_with_bits(model, token_ids, mask):
        return call(model, token_ids, tf.bitwise.bitwise_and(mask, tf.ones_like(mask)))

    task = dataclasses.replace(TASKS["row"], call=call_with_bits)
    with pytest.raises(LoweringError, match=r"found BitwiseAnd .* no operator of opset 17"):
        convert(trace(config, PORTABLE, task), config, PORTABLE)


@pytest.mark.parametrize("lowering", [FUSED, PORTABLE], ids=["fused", "portable"])
def test_a_decoder_without_a_mask_is_a_mistake_that_is_named(lowering):
    task = dataclasses.replace(
        TASKS["row"], call=lambda model, token_ids, mask: model.decoder(token_ids, mask=None)
    )
    with pytest.raises(ValueError, match="found no mask, expected one"):
        trace(CONFIGS["learned positions"], lowering, task).function.get_concrete_function()


@pytest.mark.parametrize("name", TASKS)
def test_a_graph_without_a_cache_claims_none(name):
    config = CONFIGS["learned positions"]
    assert not convert(trace(config, task=TASKS[name]), config).metadata_props
