"""GPT-2 against what transformers computed for the same weights (tests/fixtures/record_gpt2.py)."""

import numpy as np
import pytest

import tfgpt
from tfgpt.generation.options import GenerationOptions
from tfgpt.layers.cache import FixedCache, GrowingCache

VARIANTS = ("base", "inner", "untied", "unscaled", "inverse_layer")
# float32 sums in another order, over logits of order 1.
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=VARIANTS)
def recorded(request, fixtures_directory):
    """(model, what transformers computed for it)."""
    directory = fixtures_directory / "gpt2" / request.param
    with np.load(directory / "expected.npz", allow_pickle=False) as arrays:
        expected = {name: arrays[name] for name in arrays}
    return tfgpt.CausalLM.from_pretrained(directory), expected


def run_in_chunks(model, token_ids, mask, sizes, capacity=None):
    """Logits of a text that is given to the model in pieces, with a cache between them."""
    cache = model.empty_cache(len(token_ids), capacity)
    logits, start = [], 0
    for size in sizes:
        stop = start + size
        if mask is None:
            seen = None
        elif capacity is None:
            seen = mask[:, :stop]
        else:
            seen = np.pad(mask[:, :stop], ((0, 0), (0, capacity - stop)))
        part, cache = model(token_ids[:, start:stop], mask=seen, cache=cache)
        logits.append(np.asarray(part))
        start = stop
    return np.concatenate(logits, axis=1), cache


def test_logits_without_padding(recorded):
    model, expected = recorded
    np.testing.assert_allclose(model(expected["token_ids"]), expected["logits"], **TOLERANCE)
    assert np.abs(expected["logits"]).max() > 1  # or the tolerance would mean nothing


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("filler", [0, 5])
def test_logits_of_a_padded_batch(recorded, side, filler):
    model, expected = recorded
    mask = expected[f"{side}_mask"]
    token_ids = np.where(mask, expected["token_ids"], filler)
    logits = np.asarray(model(token_ids, mask=mask))
    real = mask.astype(bool)
    np.testing.assert_allclose(logits[real], expected[f"{side}_logits"][real], **TOLERANCE)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(("sizes", "capacity"), [((1, 1, 1, 5, 4), None), ((3, 1, 1, 7), 12), ((12,), 20)])
def test_logits_with_a_cache(recorded, sizes, capacity):
    model, expected = recorded
    logits, cache = run_in_chunks(model, expected["token_ids"], None, sizes, capacity)
    np.testing.assert_allclose(logits, expected["logits"], **TOLERANCE)
    assert isinstance(cache, GrowingCache if capacity is None else FixedCache)
    assert cache.keys[-1].shape[2] == (capacity or 12)


@pytest.mark.parametrize("recorded", ["untied"], indirect=True)
@pytest.mark.parametrize("capacity", [None, 14])
def test_logits_token_by_token(recorded, capacity):
    model, expected = recorded
    logits, _ = run_in_chunks(model, expected["token_ids"], None, (1,) * 12, capacity)
    np.testing.assert_allclose(logits, expected["logits"], **TOLERANCE)


@pytest.mark.parametrize("recorded", ["untied", "inner"], indirect=True)
@pytest.mark.parametrize(("side", "capacity"), [("left", None), ("left", 20), ("right", None), ("right", 14)])
def test_logits_of_a_padded_batch_with_a_cache(recorded, side, capacity):
    model, expected = recorded
    mask = expected[f"{side}_mask"]
    real = mask.astype(bool)
    logits, _ = run_in_chunks(model, expected["token_ids"] * mask, mask, (1, 7, 1, 3), capacity)
    np.testing.assert_allclose(logits[real], expected[f"{side}_logits"][real], **TOLERANCE)


@pytest.mark.parametrize("prefix", ["", "left_"])
def test_greedy_tokens(recorded, prefix):
    """Each token of transformers' greedy text is the best after those before it: by induction, the text."""
    model, expected = recorded
    greedy = expected[f"{prefix}greedy"]
    mask = expected["left_mask"] if prefix else np.ones_like(expected["token_ids"])
    text = np.concatenate([expected["token_ids"] * mask, greedy], axis=1)
    logits = np.asarray(model(text, mask=np.pad(mask, ((0, 0), (0, greedy.shape[1])), constant_values=1)))
    start = mask.shape[1] - 1
    np.testing.assert_array_equal(logits[:, start:-1].argmax(axis=-1), greedy)


@pytest.mark.parametrize("prefix", ["", "left_"])
def test_greedy_tokens_of_generate(recorded, prefix):
    pytest.importorskip("tfgpt.generation.keras_decoder")
    model, expected = recorded
    prompts = [list(map(int, row)) for row in expected["token_ids"]]
    if prefix:
        rows = zip(expected["token_ids"], expected["left_mask"], strict=True)
        prompts = [list(map(int, row[mask == 1])) for row, mask in rows]
    greedy = expected[f"{prefix}greedy"]
    results = model.generate(prompts, GenerationOptions(max_new_tokens=greedy.shape[1], end_of_text_ids=()))
    np.testing.assert_array_equal([result.token_ids for result in results], greedy)


def test_positions_may_be_given(recorded):
    model, expected = recorded
    token_ids = expected["token_ids"]
    plain = np.broadcast_to(np.arange(token_ids.shape[1]), token_ids.shape)
    np.testing.assert_allclose(model(token_ids, positions=plain), expected["logits"], **TOLERANCE)
    shifted = np.asarray(model(token_ids, positions=plain + 1))
    assert np.abs(shifted - expected["logits"]).max() > 0.1


def test_a_text_longer_than_the_context_is_refused(recorded):
    model, _ = recorded
    with pytest.raises(tfgpt.InputError, match="found 65 tokens, expected at most the context of 64"):
        model(np.ones((1, 65), "int32"))


@pytest.mark.parametrize("inside", [False, True], ids=["eager", "graph"])
def test_a_full_cache_takes_no_more_tokens(gpt2_directory, inside):
    import tensorflow as tf

    from tfgpt.errors import InputError

    model = tfgpt.CausalLM.from_pretrained(gpt2_directory)
    token_ids = np.array([[1, 2, 3]])
    _, cache = model(token_ids, cache=model.empty_cache(batch_size=1, capacity=5))
    if inside:
        # The length is no number there: slots are clamped, and shapes stay.
        _, after = tf.function(lambda ids, cache: model(ids, cache=cache))(token_ids, cache)
        assert after.keys[0].shape == cache.keys[0].shape
        return
    _, full = model(token_ids[:, :2], cache=cache)
    assert int(full.length) == 5
    for wrong, ids in ((cache, token_ids), (full, token_ids[:, :1])):
        with pytest.raises(InputError, match="tokens for a cache with a capacity of 5"):
            model(ids, cache=wrong)
