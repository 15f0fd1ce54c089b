"""Every family against what its reference computed for the same weights (tests/fixtures/record_models.py)."""

import numpy as np
import pytest

import tfgpt
from tests.fixtures.tiny_models import BASES, SHALLOW, TINY_MODELS
from tfgpt.generation.options import GenerationOptions
from tfgpt.layers.cache import FixedCache, GrowingCache
from tfgpt.models.inspect import hidden_states

# float32 sums in another order, over numbers of order 1: see DEVIATION in tiny_models.py.
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=TINY_MODELS)
def recorded(request, fixtures_directory):
    """(model, what its reference computed for it)."""
    directory = fixtures_directory / request.param
    with np.load(directory / "expected.npz", allow_pickle=False) as arrays:
        expected = {name: arrays[name] for name in arrays}
    return tfgpt.CausalLM.from_pretrained(directory), expected


def test_every_family_has_a_row(fixtures_directory):
    from tfgpt.families.registry import FAMILIES

    assert {name.split("/")[0] for name in TINY_MODELS} == set(FAMILIES)
    assert {name.split("/")[0] for name in BASES} == set(FAMILIES)
    directories = [path.parent for path in fixtures_directory.glob("*/*/config.json")]
    there = {f"{directory.parent.name}/{directory.name}" for directory in directories}
    assert there == set(TINY_MODELS)


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


def test_a_single_row(recorded):
    model, expected = recorded
    for length in (12, 1):
        logits = model(expected["token_ids"][:1, :length])
        np.testing.assert_allclose(logits, expected["logits"][:1, :length], **TOLERANCE)


def test_hidden_states_after_every_layer(recorded):
    model, expected = recorded
    states = hidden_states(model, expected["token_ids"])
    theirs = {name.removeprefix("state/"): array for name, array in expected.items() if "state/" in name}
    assert len(theirs) >= model.config.num_layers + 1
    gaps = {name: np.abs(states[name] - array).max() for name, array in theirs.items()}
    assert {name: gap for name, gap in gaps.items() if not gap <= 1e-5} == {}


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


@pytest.mark.parametrize("recorded", SHALLOW, indirect=True)
@pytest.mark.parametrize("capacity", [None, 14])
def test_logits_token_by_token(recorded, capacity):
    model, expected = recorded
    logits, _ = run_in_chunks(model, expected["token_ids"], None, (1,) * 12, capacity)
    np.testing.assert_allclose(logits, expected["logits"], **TOLERANCE)


@pytest.mark.parametrize("recorded", SHALLOW, indirect=True)
@pytest.mark.parametrize(("side", "capacity"), [("left", None), ("left", 20), ("right", None), ("right", 14)])
def test_logits_of_a_padded_batch_with_a_cache(recorded, side, capacity):
    model, expected = recorded
    mask = expected[f"{side}_mask"]
    real = mask.astype(bool)
    logits, _ = run_in_chunks(model, expected["token_ids"] * mask, mask, (1, 7, 1, 3), capacity)
    np.testing.assert_allclose(logits[real], expected[f"{side}_logits"][real], **TOLERANCE)


@pytest.mark.parametrize("prefix", ["", "left_"])
def test_greedy_tokens(recorded, prefix):
    """Each token of the reference's greedy text is the best after those before it: by induction, the text."""
    model, expected = recorded
    greedy = expected[f"{prefix}greedy"]
    mask = expected["left_mask"] if prefix else np.ones_like(expected["token_ids"])
    text = np.concatenate([expected["token_ids"] * mask, greedy], axis=1)
    logits = np.asarray(model(text, mask=np.pad(mask, ((0, 0), (0, greedy.shape[1])), constant_values=1)))
    start = mask.shape[1] - 1
    np.testing.assert_array_equal(logits[:, start:-1].argmax(axis=-1), greedy)


@pytest.mark.parametrize("recorded", BASES, indirect=True)
def test_greedy_tokens_of_generate(recorded):
    """Prompts of several lengths: `generate` pads them at the left."""
    model, expected = recorded
    rows = zip(expected["token_ids"], expected["left_mask"], strict=True)
    prompts = [list(map(int, row[mask == 1])) for row, mask in rows]
    greedy = expected["left_greedy"]
    results = model.generate(prompts, GenerationOptions(max_new_tokens=greedy.shape[1], end_of_text_ids=()))
    np.testing.assert_array_equal([result.token_ids for result in results], greedy)


def test_bfloat16_is_within_rounding(recorded, request, fixtures_directory):
    """Of the size of transformers' own error, against float32 arithmetic over the same rounded weights.

    Each rounding to the 8 bits of bfloat16 is an error of up to 2**-9, and independent errors add up in the
    square. A product and its bias are rounded one after the other here and once by PyTorch, and so are some
    steps of GELU: up to four times as many roundings are an error twice as large (measured: 1.2 to 2.0).
    The error is the median token's: one at the border between two experts may go to either, in both.
    """
    _, expected = recorded
    if "bfloat16_logits" not in expected:
        pytest.skip("no other library has this family in bfloat16")
    directory = fixtures_directory / request.node.callspec.params["recorded"]
    model = tfgpt.CausalLM.from_pretrained(directory, dtype="bfloat16")
    logits = np.asarray(model(expected["token_ids"])).astype("f")
    ours, theirs = (
        np.median(np.sqrt(((each - expected["rounded_logits"]) ** 2).mean(axis=-1)))
        for each in (logits, expected["bfloat16_logits"])
    )
    assert 0 < ours <= 2.3 * theirs


def test_positions_may_be_given(recorded):
    model, expected = recorded
    token_ids = expected["token_ids"]
    plain = np.broadcast_to(np.arange(token_ids.shape[1]), token_ids.shape)
    np.testing.assert_allclose(model(token_ids, positions=plain), expected["logits"], **TOLERANCE)
    shifted = np.asarray(model(token_ids, positions=plain + 1))
    moves = np.abs(shifted - expected["logits"]).max()
    if model.config.positions.value == "learned":
        assert moves > 0.1
    else:  # rotary positions count distances alone
        assert moves < 1e-5


def test_a_text_longer_than_the_context_is_refused(recorded):
    model, _ = recorded
    length = model.config.context_length
    with pytest.raises(tfgpt.InputError, match=f"found {length + 1} tokens, .* the context of {length}"):
        model(np.ones((1, length + 1), "int32"))


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
