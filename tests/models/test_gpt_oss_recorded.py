"""gpt-oss against what transformers computed for the same weights (tests/fixtures/record_gpt_oss.py)."""

import json

import numpy as np
import pytest

import tfgpt
from tfgpt.models.inspect import hidden_states

# float32 sums in another order, over logits of order 1.
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=["base", "others"])
def recorded(request, fixtures_directory):
    """(model, what transformers computed for it)."""
    directory = fixtures_directory / "gpt_oss" / request.param
    with np.load(directory / "expected.npz", allow_pickle=False) as arrays:
        expected = {name: arrays[name] for name in arrays}
    return tfgpt.CausalLM.from_pretrained(directory), expected


def test_logits_and_hidden_states(recorded):
    model, expected = recorded
    found = hidden_states(model, expected["token_ids"])
    np.testing.assert_allclose(found.pop("logits"), expected["logits"], **TOLERANCE)
    # transformers gives the last block's only after the final norm.
    del found[f"block_{model.config.num_layers - 1}"]
    for name, state, wanted in zip(found, found.values(), expected["hidden_states"], strict=True):
        np.testing.assert_allclose(state, wanted, **TOLERANCE, err_msg=name)
    assert np.abs(expected["logits"]).max() > 0.5


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_padded_batch(recorded, side):
    model, expected = recorded
    mask = expected[f"{side}_mask"]
    real = mask.astype(bool)
    logits = np.asarray(model(expected["token_ids"] * mask, mask=mask))
    np.testing.assert_allclose(logits[real], expected[f"{side}_logits"][real], **TOLERANCE)


@pytest.mark.parametrize("capacity", [None, 20])
@pytest.mark.parametrize("sizes", [(1,) * 12, (5, 1, 6)])
def test_logits_with_a_cache(recorded, sizes, capacity):
    model, expected = recorded
    cache, start, parts = model.empty_cache(3, capacity), 0, []
    for size in sizes:
        part, cache = model(expected["token_ids"][:, start : start + size], cache=cache)
        parts.append(np.asarray(part))
        start += size
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected["logits"], **TOLERANCE)


@pytest.mark.parametrize("prefix", ["", "left_"])
def test_greedy_tokens(recorded, prefix):
    """Each token of transformers' greedy text is the best after those before it: by induction, the text."""
    model, expected = recorded
    greedy = expected[f"{prefix}greedy"]
    mask = expected["left_mask"] if prefix else np.ones_like(expected["token_ids"])
    text = np.concatenate([expected["token_ids"] * mask, greedy], axis=1)
    logits = np.asarray(model(text, mask=np.pad(mask, ((0, 0), (0, greedy.shape[1])), constant_values=1)))
    np.testing.assert_array_equal(logits[:, mask.shape[1] - 1 : -1].argmax(axis=-1), greedy)


JAX = """
import json
import jax
import numpy as np
import tfgpt
report = {}
for name in ("base", "others"):
    directory = f"tests/fixtures/gpt_oss/{name}"
    model = tfgpt.CausalLM.from_pretrained(directory)
    expected = np.load(directory + "/expected.npz", allow_pickle=False)
    run = jax.jit(lambda token_ids, mask=None: model(token_ids, mask=mask))
    gap = np.abs(np.asarray(run(expected["token_ids"])) - expected["logits"]).max()
    report[name] = float(gap)
    mask = expected["left_mask"]
    padded = np.asarray(run(expected["token_ids"] * mask, mask=mask))
    report[name + " padded"] = float(np.abs(padded - expected["left_logits"])[mask == 1].max())
model.compile(optimizer="adamw")
x = np.random.default_rng(0).integers(0, 53, (8, 8))
losses = model.fit(x, x, epochs=3, batch_size=4, verbose=0).history["loss"]
report["loss falls"] = 0.0 if losses[-1] < losses[0] else 1.0
print(json.dumps(report))
"""


def test_jax(python):
    pytest.importorskip("jax")
    report = json.loads(python(JAX, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu").splitlines()[-1])
    assert len(report) == 5
    assert {name: gap for name, gap in report.items() if not gap <= 1e-5} == {}
