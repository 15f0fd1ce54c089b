"""The same numbers on KERAS_BACKEND=jax: a fresh process reads the recorded directories."""

import json

import pytest

CODE = """
import json
import jax
import numpy as np
import keras
import tfgpt

assert keras.config.backend() == "jax"
report = {}
for name in ("base", "untied"):
    directory = f"tests/fixtures/gpt2/{name}"
    model = tfgpt.CausalLM.from_pretrained(directory)
    # Compiled: JAX compiles every operation of an eager model one by one.
    run = jax.jit(lambda token_ids, mask=None, cache=None: model(token_ids, mask=mask, cache=cache))
    expected = np.load(directory + "/expected.npz", allow_pickle=False)
    token_ids, mask = expected["token_ids"], expected["left_mask"]
    real = mask.astype(bool)
    def gap(a, b):
        return float(np.abs(np.asarray(a) - b).max())
    report[f"{name} plain"] = gap(run(token_ids), expected["logits"])
    if name == "base":
        continue
    padded = np.asarray(run(token_ids * mask, mask=mask))
    report[f"{name} padded"] = gap(padded[real], expected["left_logits"][real])
    for capacity in (None, 16):
        cache, start = model.empty_cache(3, capacity), 0
        for size in (4, 1, 7):
            part, cache = run(token_ids[:, start : start + size], cache=cache)
            worst = gap(part, expected["logits"][:, start : start + size])
            key = f"{name} cache {capacity}"
            report[key] = max(report.get(key, 0.0), worst)
            start += size
model = tfgpt.CausalLM(tfgpt.ModelConfig(11, 8, 1, 2, 8, dropout=0.1))
model.compile(optimizer="adamw")
x = np.random.default_rng(0).integers(0, 11, (8, 8))
history = model.fit(x, x, epochs=3, batch_size=4, verbose=0).history["loss"]
report["loss falls"] = 0.0 if history[-1] < history[0] else 1.0
print(json.dumps(report))
"""


def test_recorded_logits_and_fit(python):
    pytest.importorskip("jax")
    report = json.loads(python(CODE, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu").splitlines()[-1])
    assert len(report) == 6
    assert {name: gap for name, gap in report.items() if not gap <= 1e-5} == {}
