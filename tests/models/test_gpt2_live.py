"""GPT-2 against transformers in the same process: both directions of a model directory, and `generate`."""

import json

import numpy as np
import pytest

import tfgpt
from tfgpt.generation.options import GenerationOptions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.fixtures.record_gpt2 import tiny_gpt2  # noqa: E402  (needs the two above)

CONFIG = {"vocab_size": 83, "n_positions": 96, "n_layer": 3, "n_head": 3, "n_embd": 24}
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(
    scope="module", params=[{}, {"tie_word_embeddings": False, "n_inner": 50}], ids=["tied", "untied"]
)
def pair(request, tmp_path_factory):
    """(transformers' model, tfgpt's from the directory that transformers saved)."""
    theirs = tiny_gpt2(seed=5, **CONFIG, **request.param)
    directory = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(directory)
    return theirs, tfgpt.CausalLM.from_pretrained(directory)


def logits_of(model, token_ids):
    with torch.no_grad():
        return model(torch.tensor(token_ids)).logits.numpy()


def test_logits(pair, rng):
    theirs, ours = pair
    token_ids = rng.integers(0, 83, (2, 50))
    np.testing.assert_allclose(ours(token_ids), logits_of(theirs, token_ids), **TOLERANCE)


def test_generate(pair, rng):
    theirs, ours = pair
    prompts = [rng.integers(1, 83, length).tolist() for length in (9, 4, 1)]
    results = ours.generate(prompts, GenerationOptions(max_new_tokens=40, end_of_text_ids=()))
    for prompt, result in zip(prompts, results, strict=True):
        text = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert list(result.token_ids) == text[0, len(prompt) :].tolist()


@pytest.mark.parametrize("max_shard_size", [5_000_000_000, 20_000])
def test_save_pretrained_loads_in_transformers(pair, rng, tmp_path, max_shard_size):
    theirs, ours = pair
    ours.save_pretrained(tmp_path / "ours", max_shard_size=max_shard_size)
    sharded = (tmp_path / "ours" / "model.safetensors.index.json").exists()
    assert sharded == (max_shard_size == 20_000)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert type(again) is transformers.GPT2LMHeadModel
    assert not any(report.values())
    token_ids = rng.integers(0, 83, (2, 20))
    np.testing.assert_array_equal(logits_of(again, token_ids), logits_of(theirs, token_ids))


def test_config_json_means_the_same_to_transformers(pair, tmp_path):
    theirs, ours = pair
    ours.save_pretrained(tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    again = transformers.AutoConfig.from_pretrained(tmp_path / "ours").to_dict()
    expected = theirs.config.to_dict()
    different = {key for key in expected if again.get(key) != expected[key]}
    # "n_inner": null and 4 * n_embd say the same thing.
    assert different <= {"_name_or_path", "n_inner", "transformers_version"}
    assert written["n_inner"] == ours.config.intermediate_dim


def test_a_model_made_here_loads_in_transformers(rng, tmp_path):
    model = tfgpt.CausalLM(tfgpt.ModelConfig(61, 32, 2, 2, 16, activation="gelu", score_scale=1.0))
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    model.save_pretrained(tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    token_ids = rng.integers(0, 61, (2, 32))
    np.testing.assert_allclose(model(token_ids), logits_of(again, token_ids), **TOLERANCE)


def test_a_bare_base_model_and_old_mask_buffers_are_read(rng, tmp_path):
    """The hub's openai-community/gpt2 has no `transformer.` prefix and carries the causal masks."""
    from safetensors.torch import save_file

    theirs = tiny_gpt2(seed=6, **CONFIG)
    theirs.save_pretrained(tmp_path)
    tensors = {name: value.contiguous() for name, value in theirs.transformer.state_dict().items()}
    for layer in range(3):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 96, 96)
    save_file(tensors, tmp_path / "model.safetensors")
    token_ids = rng.integers(0, 83, (1, 20))
    model = tfgpt.CausalLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(model(token_ids), logits_of(theirs, token_ids), **TOLERANCE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_are_read(rng, tmp_path, dtype):
    theirs = tiny_gpt2(seed=7, **CONFIG).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    model = tfgpt.CausalLM.from_pretrained(tmp_path)
    token_ids = rng.integers(0, 83, (1, 20))
    np.testing.assert_allclose(model(token_ids), logits_of(theirs.float(), token_ids), **TOLERANCE)
