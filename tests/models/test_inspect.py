"""Attention maps and hidden states: against transformers, and by their meaning."""

import numpy as np
import pytest

import tfgpt
from tfgpt import InputError
from tfgpt.models.inspect import attention_maps, hidden_states

TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def model(gpt2_directory):
    return tfgpt.CausalLM.from_pretrained(gpt2_directory)


def test_against_transformers(model, gpt2_directory, rng):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(gpt2_directory, attn_implementation="eager")
    token_ids = rng.integers(0, 97, (2, 10))
    with torch.no_grad():
        output = theirs(torch.tensor(token_ids), output_attentions=True, output_hidden_states=True)
    maps = attention_maps(model, token_ids)
    assert len(maps) == len(output.attentions) == 11
    for ours, expected in zip(maps, output.attentions, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected.numpy(), **TOLERANCE)
    states = hidden_states(model, token_ids)
    names = ["embedding", *(f"block_{i}" for i in range(11)), "final_norm", "logits"]
    assert list(states) == names
    # transformers lists the input of every block, and the output of the last one after the final norm.
    for name, expected in zip([*names[:11], "final_norm"], output.hidden_states, strict=True):
        # The residual stream grows to order 20, where float32 resolves 2e-6, over 11 blocks.
        np.testing.assert_allclose(states[name], expected.numpy(), rtol=0, atol=5e-5)
    np.testing.assert_allclose(states["logits"], output.logits.numpy(), **TOLERANCE)


def test_maps_of_a_padded_batch_sum_to_one_and_avoid_padding(model, rng):
    token_ids = rng.integers(0, 97, (2, 6))
    mask = np.array([[1] * 6, [0, 0, 1, 1, 1, 1]])
    for weights in attention_maps(model, token_ids, mask):  # [batch, heads, query, key]
        np.testing.assert_allclose(weights[0].sum(axis=-1), 1, rtol=0, atol=1e-6)
        np.testing.assert_allclose(weights[1, :, 2:].sum(axis=-1), 1, rtol=0, atol=1e-6)
        assert weights[1, :, 2:, :2].max() == 0
        assert np.triu(weights[0], k=1).max() == 0


def test_a_band_is_seen_in_its_maps(rng):
    config = tfgpt.ModelConfig(13, 8, 2, 2, 8, attention_pattern=("global", "local"), window=2)
    wide, banded = attention_maps(tfgpt.CausalLM(config), rng.integers(0, 13, (1, 6)))
    distance = np.arange(6)[:, None] - np.arange(6)[None, :]
    allowed = (distance >= 0) & (distance < 2)
    assert (banded[0][:, allowed] > 0).all() and banded[0][:, ~allowed].max() == 0
    assert (wide[0][:, distance >= 0] > 0).all()


def test_looking_leaves_the_model_as_it_was(model, rng):
    token_ids = rng.integers(0, 97, (1, 4))
    before = np.asarray(model(token_ids))
    one, other = hidden_states(model, token_ids), hidden_states(model, token_ids[:, :3])
    attention_maps(model, token_ids)
    assert one["logits"].shape[1] == 4 and other["logits"].shape[1] == 3
    np.testing.assert_array_equal(model(token_ids), before)
    assert "call" not in vars(model.decoder.blocks[0])


def test_half_precision_and_post_norm_models_are_looked_at(rng):
    config = tfgpt.ModelConfig(13, 8, 1, 2, 8, residual="post_norm", dropout=0.5)
    model = tfgpt.CausalLM(config, dtype="mixed_bfloat16")
    states = hidden_states(model, rng.integers(0, 13, (1, 4)))
    assert list(states) == ["embedding", "block_0", "logits"]
    assert {state.dtype for state in states.values()} == {np.dtype("float32")}
    assert attention_maps(model, rng.integers(0, 13, (1, 4)))[0].shape == (1, 2, 4, 4)


def test_a_single_text_needs_its_batch_axis(model):
    with pytest.raises(InputError, match=r"found token ids of shape \[4\], expected \[batch, length\]"):
        attention_maps(model, [1, 2, 3, 4])
