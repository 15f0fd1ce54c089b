"""Every family against transformers in the same process: both directions of a directory, gradients, texts."""

import json

import keras
import numpy as np
import pytest

import tfgpt
from tests.fixtures.tiny_models import TINY_MODELS, tiny_model
from tfgpt.checkpoints.rules import expand, written
from tfgpt.families.registry import family
from tfgpt.generation.options import GenerationOptions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tf = pytest.importorskip("tensorflow")

from tests.fixtures.record_models import named_states  # noqa: E402  (needs the two above)

TOLERANCE = {"rtol": 0, "atol": 1e-5}
NAMES = [name for name, row in TINY_MODELS.items() if row.architecture]
BASES = [name for name in NAMES if name.endswith("/base")]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Tiny matrices gain nothing from threads, and other threads of this process are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
    """(transformers' model, tfgpt's from the directory that it saved); not the recorded weights."""
    theirs = tiny_model(request.param, seed=50)
    directory = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(directory)
    return theirs, tfgpt.CausalLM.from_pretrained(directory)


def logits_of(model, token_ids):
    with torch.no_grad():
        return model(torch.tensor(token_ids)).logits.float().numpy()


def test_logits_of_long_texts(pair, rng):
    """As long as the context, many times the window; padded at the left, ids of padding arbitrary."""
    theirs, ours = pair
    token_ids = rng.integers(0, 61, (3, 80))
    np.testing.assert_allclose(ours(token_ids), logits_of(theirs, token_ids), **TOLERANCE)
    mask = (np.arange(80) >= np.array([[0], [9], [77]])).astype(int)
    logits = np.asarray(ours(token_ids, mask=mask))
    real = mask.astype(bool)
    expected = named_states(theirs, token_ids, mask)["logits"]
    np.testing.assert_allclose(logits[real], expected[real], **TOLERANCE)


def test_gradients_of_the_loss(pair, rng):
    """Every weight: PyTorch's gradients through the weight table, whose transforms are linear."""
    theirs, ours = pair
    token_ids = rng.integers(0, 61, (3, 20))
    x, y = token_ids[:, :-1], token_ids[:, 1:]
    theirs.zero_grad()
    loss = torch.nn.functional.cross_entropy(
        theirs(torch.tensor(x)).logits.flatten(0, 1), torch.tensor(y).flatten()
    )
    loss.backward()
    there = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    # Some families' head is named otherwise in files than in transformers' module.
    there.setdefault("embed_out.weight", there.get("lm_head.weight"))
    named = ours.named_weights()
    with tf.GradientTape() as tape:
        losses = keras.ops.sparse_categorical_crossentropy(y, ours(x), from_logits=True)
        mean = keras.ops.mean(losses)
    np.testing.assert_allclose(float(mean), loss.item(), rtol=1e-6)
    gradients = tape.gradient(mean, [variable.value for variable in named.values()])
    here = dict(zip(named, map(tf.convert_to_tensor, gradients), strict=True))
    one = family(ours.config.family)
    for rule in written(expand(one.weights(ours.config), ours.config.num_layers)):
        (expected,) = rule.transform.forward([there[one.published_name(name)] for name in rule.sources])
        scale = np.abs(expected).max()
        assert scale > 0, rule.target
        # Relative to the weight's largest: the smallest are sums of numbers that cancel.
        np.testing.assert_allclose(
            here[rule.target], expected, rtol=0, atol=1e-4 * scale, err_msg=rule.target
        )


@pytest.mark.parametrize("pair", BASES, indirect=True)
def test_generate(pair, rng):
    theirs, ours = pair
    prompt = rng.integers(1, 61, 9).tolist()
    (result,) = ours.generate([prompt], GenerationOptions(max_new_tokens=64, end_of_text_ids=()))
    text = theirs.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert list(result.token_ids) == text[0, len(prompt) :].tolist()


@pytest.mark.parametrize("max_shard_size", [5_000_000_000, 20_000])
def test_save_pretrained_loads_in_transformers(pair, tmp_path, max_shard_size):
    theirs, ours = pair
    ours.save_pretrained(tmp_path / "ours", max_shard_size=max_shard_size)
    sharded = (tmp_path / "ours" / "model.safetensors.index.json").exists()
    assert sharded == (max_shard_size == 20_000)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours",
        output_loading_info=True,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    assert type(again) is type(theirs)
    assert not any(report.values())
    state, expected = again.state_dict(), theirs.state_dict()
    assert set(state) == set(expected)
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []
    token_ids = np.arange(60).reshape(2, 30)
    np.testing.assert_array_equal(logits_of(again, token_ids), logits_of(theirs, token_ids))


@pytest.mark.parametrize("pair", BASES, indirect=True)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_there_and_back_is_bit_equal(pair, tmp_path, dtype):
    """transformers -> tfgpt -> transformers -> tfgpt, in the weights' dtype."""
    theirs, _ = pair
    theirs.save_pretrained(tmp_path / "one")
    ours = tfgpt.CausalLM.from_pretrained(tmp_path / "one", dtype=dtype)
    ours.save_pretrained(tmp_path / "two")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "two", dtype="auto")
    assert again.dtype == getattr(torch, dtype)
    again.save_pretrained(tmp_path / "three")
    last = tfgpt.CausalLM.from_pretrained(tmp_path / "three", dtype=dtype).named_weights()
    for name, variable in ours.named_weights().items():
        assert last[name].dtype == variable.dtype == dtype
        np.testing.assert_array_equal(
            np.asarray(last[name]).view("u1"), np.asarray(variable).view("u1"), name
        )


def test_config_json_means_the_same_to_transformers(pair, tmp_path):
    theirs, ours = pair
    ours.save_pretrained(tmp_path / "ours")
    again = transformers.AutoConfig.from_pretrained(tmp_path / "ours").to_dict()
    expected = theirs.config.to_dict()
    different = {key for key in expected if again.get(key) != expected[key]}
    # Files' own; null and 4 times the width say the same thing; "attention_types" has several spellings.
    assert different <= {
        "_name_or_path",
        "transformers_version",
        "n_inner",
        "intermediate_size",
        "attention_types",
    }
    width = {key for key in ("n_inner", "intermediate_size") if key in different}
    written_values = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert all(written_values[key] == ours.config.intermediate_dim for key in width)


def test_a_model_made_here_loads_in_transformers(rng, tmp_path):
    model = tfgpt.CausalLM(tfgpt.ModelConfig(61, 32, 2, 2, 16, activation="gelu", score_scale=1.0))
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.2, variable.shape))
    model.save_pretrained(tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    token_ids = rng.integers(0, 61, (2, 32))
    np.testing.assert_allclose(model(token_ids), logits_of(again, token_ids), **TOLERANCE)


def test_a_bare_base_model_and_old_mask_buffers_are_read(rng, tmp_path):
    """The hub's openai-community/gpt2 has no `transformer.` prefix and carries the causal masks."""
    from safetensors.torch import save_file

    theirs = tiny_model("gpt2/inner", seed=6)
    theirs.save_pretrained(tmp_path)
    tensors = {name: value.contiguous() for name, value in theirs.transformer.state_dict().items()}
    for layer in range(3):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 80, 80)
    save_file(tensors, tmp_path / "model.safetensors")
    token_ids = rng.integers(0, 61, (1, 20))
    model = tfgpt.CausalLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(model(token_ids), logits_of(theirs, token_ids), **TOLERANCE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_are_read(rng, tmp_path, dtype):
    theirs = tiny_model("gpt2/untied", seed=7).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    model = tfgpt.CausalLM.from_pretrained(tmp_path)
    token_ids = rng.integers(0, 61, (1, 20))
    np.testing.assert_allclose(model(token_ids), logits_of(theirs.float(), token_ids), **TOLERANCE)
