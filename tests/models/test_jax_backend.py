"""The same numbers on KERAS_BACKEND=jax: a fresh process reads the recorded directories of all families."""

import json
import os

import pytest

from tests.fixtures.tiny_models import TINY_MODELS, TRAINED

# Few processes, since importing and starting JAX costs more than a small model. Everything is compiled: JAX
# compiles the operations of an eager model one by one. Compiling is nearly all of the time, so without LLVM's
# optimizations.
ENVIRONMENT = {
    "KERAS_BACKEND": "jax",
    # TFGPT_TEST_JAX=cuda pytest tests/models/test_jax_backend.py: the same on a GPU, in whole float32.
    "JAX_PLATFORMS": os.environ.get("TFGPT_TEST_JAX", "cpu"),
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}
FORWARD = """
import json
import sys
import jax
import numpy as np
import keras
import tfgpt
from tests.fixtures.tiny_models import TRAINED
from tfgpt.generation.options import GenerationOptions

assert keras.config.backend() == "jax"
report = {}

def gap(a, b):
    return float(np.abs(np.asarray(a, "float32") - b).max())

def recorded(name):
    with np.load(f"tests/fixtures/{name}/expected.npz", allow_pickle=False) as file:
        return tfgpt.CausalLM.from_pretrained(f"tests/fixtures/{name}"), dict(file)

def padded_and_in_chunks(name, model, run, expected):
    token_ids, mask = expected["token_ids"], expected["left_mask"]
    real = mask.astype(bool)
    padded = np.asarray(run(token_ids * mask, mask=mask))
    report[f"{name} padded"] = gap(padded[real], expected["left_logits"][real])
    cache, start, worst = model.empty_cache(3), 0, 0.0
    for size in (4, 8):
        part, cache = run(token_ids[:, start : start + size], cache=cache)
        worst = max(worst, gap(part, expected["logits"][:, start : start + size]))
        start += size
    report[f"{name} growing cache"] = worst
"""
CODE = (
    FORWARD
    + """
def parity(name):
    model, expected = recorded(name)
    run = jax.jit(lambda token_ids, mask=None, cache=None: model(token_ids, mask=mask, cache=cache))
    report[f"{name} plain"] = gap(run(expected["token_ids"]), expected["logits"])
    if name not in TRAINED:
        return
    padded_and_in_chunks(name, model, run, expected)
    # JAX generates with a cache of fixed capacity.
    prompt = expected["token_ids"][0].tolist()
    (text,) = model.generate([prompt], GenerationOptions(max_new_tokens=64, end_of_text_ids=()))
    report[f"{name} greedy"] = gap(text.token_ids, expected["greedy"][0])

def training(name, directory):
    x = (np.arange(16)[:, None] + np.arange(13)) % 50
    for dtype in ("float32", "mixed_bfloat16"):
        model = tfgpt.CausalLM.from_pretrained(f"tests/fixtures/{name}", dtype=dtype)
        if dtype == "float32":
            model.save(directory + "/model.keras")
            again = keras.models.load_model(directory + "/model.keras")
            report[f"{name} keras file"] = max(
                gap(b, np.asarray(a)) for a, b in zip(model.weights, again.weights, strict=True)
            )
        model.compile(keras.optimizers.AdamW(0.01))
        losses = model.fit(x[:, :-1], x[:, 1:], batch_size=8, epochs=5, verbose=0).history["loss"]
        report[f"{name} {dtype} loss falls"] = 0.0 if losses[-1] < 0.8 * losses[0] else losses[-1]

for name in NAMES:
    parity(name)
    if name in TRAINED:
        training(name, DIRECTORY)
print(json.dumps(report))
"""
)


@pytest.mark.parametrize("third", [0, 1, 2])
def test_all_families(python, tmp_path, third):
    pytest.importorskip("jax")
    names = list(TINY_MODELS)[third::3]
    code = CODE.replace("DIRECTORY", repr(str(tmp_path))).replace("NAMES", repr(names))
    report = json.loads(python(code, **ENVIRONMENT).splitlines()[-1])
    assert len(report) == len(names) + 6 * len(set(names) & set(TRAINED))
    assert {name: gap for name, gap in report.items() if not gap <= 1e-5} == {}


EAGER = (
    FORWARD
    + """
for name in ("gpt2/base", "gpt_oss/base"):
    model, expected = recorded(name)
    padded_and_in_chunks(name, model, model, expected)
    token_ids, others = expected["token_ids"][:, :6], [v.value for v in model.non_trainable_variables]

    def loss(weights):
        logits, _ = model.stateless_call(weights, others, token_ids)
        return (logits**2).mean()

    weights = [v.value for v in model.trainable_variables]
    pairs = zip(jax.grad(loss)(weights), jax.jit(jax.grad(loss))(weights), strict=True)
    report[f"{name} gradients"] = max(gap(a, np.asarray(b)) / (1 + float(abs(b).max())) for a, b in pairs)
print(json.dumps(report))
"""
)


@pytest.mark.slow
def test_models_outside_of_compiled_functions(python):
    """Every named operation is a compiled call of its own there, and the model is the same."""
    pytest.importorskip("jax")
    report = json.loads(python(EAGER, **ENVIRONMENT).splitlines()[-1])
    assert len(report) == 6
    assert {name: gap for name, gap in report.items() if not gap <= 1e-5} == {}


FUSED = """
import json
import jax
import numpy as np
import tfgpt

token_ids = np.random.default_rng(0).integers(0, 97, (3, 64))
everything = np.ones_like(token_ids)

def loss_and_gradients(dtype, mask):
    model = tfgpt.CausalLM.from_pretrained("tests/fixtures/gpt2/heads_of_8", dtype=dtype)
    others = [v.value for v in model.non_trainable_variables]

    def loss(weights):
        logits, _ = model.stateless_call(weights, others, token_ids, mask=mask)
        logits = jax.nn.log_softmax(logits.astype("float32")[:, :-1])
        return -jax.numpy.take_along_axis(logits, token_ids[:, 1:, None], -1).mean()

    run = jax.jit(jax.value_and_grad(loss)).lower([v.value for v in model.trainable_variables])
    value, gradients = run.compile()([v.value for v in model.trainable_variables])
    flat = np.concatenate([np.asarray(each, "float64").ravel() for each in gradients])
    return "cudnn" in run.as_text(), float(value), flat

_, _, exact = loss_and_gradients("float32", None)
report = {}
for name, mask in (("fused", None), ("plain", everything)):
    used, loss, gradients = loss_and_gradients("mixed_bfloat16", mask)
    gap = float(np.linalg.norm(gradients - exact) / np.linalg.norm(exact))
    report[name] = {"used": used, "loss": loss, "gap": gap}
print(json.dumps(report))
"""


@pytest.mark.skipif(ENVIRONMENT["JAX_PLATFORMS"] != "cuda", reason="needs a GPU: TFGPT_TEST_JAX=cuda")
def test_fused_attention_is_attention(python):
    """A mask of ones takes the plain way, no mask cuDNN's kernel: as near to float32's gradients."""
    report = json.loads(python(FUSED, **ENVIRONMENT).splitlines()[-1])
    print(report)
    fused, plain = report["fused"], report["plain"]
    assert fused["used"] and not plain["used"]
    assert abs(fused["loss"] - plain["loss"]) < 2**-8
    assert 0 < fused["gap"] < 1.2 * plain["gap"]


def test_a_named_operation_is_one_call_outside_of_compiled_functions(python):
    """Each primitive that JAX compiles by itself takes 50 ms and 1 MB before the first token."""
    pytest.importorskip("jax")
    code = """
import jax
import keras
import numpy as np
from tfgpt import ops

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(name) if name.endswith("backend_compile_duration") else None
)
x, scale = jax.device_put(np.ones((2, 8), "float32")), keras.Variable(np.full(8, 2, "float32"))
compiled.clear()
y = ops.layer_norm(x, scale, scale, 1e-5)
number = len(compiled)
ops.layer_norm(x, scale, scale, epsilon=1e-3)
plain = ops.layer_norm.definition.__wrapped__(x, scale, scale, 1e-5)
print(number, len(compiled) > number, bool(abs(y - plain).max() < 1e-6))
"""
    assert python(code, **ENVIRONMENT).split() == ["1", "True", "True"]


def test_half_precision_casts_variables_as_the_layer_says(python):
    """Variables are handed over within the layer's dtype policy, not as they are kept."""
    pytest.importorskip("jax")
    code = """
import keras
import numpy as np
from tfgpt.layers.linear import Linear

layer = Linear(3, dtype="mixed_bfloat16")
y = layer(np.ones((2, 4), "float32"))
print(y.dtype, layer.kernel.dtype)
"""
    assert python(code, **ENVIRONMENT).split() == ["bfloat16", "float32"]


def test_named_operations_take_keras_tensors(python):
    pytest.importorskip("jax")
    code = """
import keras
from tfgpt import ops

print(*ops.gelu(keras.Input((3, 8)), approximate=True).shape)
"""
    assert python(code, **ENVIRONMENT).split() == ["None", "3", "8"]
