"""Every family trains, generates, and is saved: the jobs that need no reference."""

import itertools

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tfgpt
from tests.fixtures.tiny_models import BASES, TINY_MODELS, TRAINED
from tfgpt import InputError
from tfgpt.generation.options import GenerationOptions

# Whose layers differ most; the other families are trained by the slow tests.
QUICK = ("gpt2/inner", "gpt_neox/base", "gpt_oss/others")
FAMILIES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRAINED]


@pytest.fixture(params=TINY_MODELS)
def directory(request, fixtures_directory):
    """The recorded directory of every variant; read only."""
    return fixtures_directory / request.param


def counting(num_rows=16, length=12):
    """Texts in which every token is the one before it plus one: (inputs, targets) `[rows, length]`."""
    starts = np.arange(num_rows)[:, None]
    text = (starts + np.arange(length + 1)) % 50
    return text[:, :-1], text[:, 1:]


def damaged(directory, target, change):
    """A copy of a directory whose tensors `change` changed."""
    target.mkdir()
    (target / "config.json").write_bytes((directory / "config.json").read_bytes())
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


@pytest.mark.parametrize("dtype", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("directory", FAMILIES, indirect=True)
def test_fit_generate_and_keras_file(directory, tmp_path, dtype):
    model = tfgpt.CausalLM.from_pretrained(directory, dtype=dtype)
    x, y = counting()
    whole = np.asarray(model(x)).astype("f")
    if dtype == "mixed_bfloat16":
        assert model.compute_dtype == "bfloat16" and model.variable_dtype == "float32"
        exact = tfgpt.CausalLM.from_pretrained(directory)
        gap = np.asarray(exact(x)) - whole
        # Logits of order 1 after 3 blocks, each adding up to 20 independent roundings of 2**-9. The median,
        # since a rounded router can choose another expert.
        assert 0 < np.median(np.abs(gap)) < 4 * 2**-9
    model.compile(keras.optimizers.AdamW(0.01), jit_compile=False)  # XLA takes ten times as long
    losses = model.fit(x, y, batch_size=8, epochs=5, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]
    (result,) = model.generate([[3, 4, 5]], GenerationOptions(max_new_tokens=6, end_of_text_ids=()))
    assert len(result.token_ids) == 6
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.config == model.config and again.dtype_policy.name == dtype
    np.testing.assert_array_equal(np.asarray(again(x)).astype("f"), np.asarray(model(x)).astype("f"))


def test_the_tensors_written_are_those_read(directory, tmp_path):
    """Names, shapes and bits, in one file and in shards."""
    model = tfgpt.CausalLM.from_pretrained(directory)
    theirs = load_file(directory / "model.safetensors")
    for shard_size in (5_000_000_000, 20_000):
        model.save_pretrained(tmp_path / "copy", max_shard_size=shard_size)
        files = sorted((tmp_path / "copy").glob("*.safetensors"))
        assert (len(files) > 1) == (shard_size == 20_000)
        pairs = list(itertools.chain.from_iterable(load_file(file).items() for file in files))
        ours = dict(pairs)
        assert len(pairs) == len(ours) and set(ours) == set(theirs)
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(ours[name], tensor, name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("directory", BASES, indirect=True)
def test_half_precision_round_trips_bit_for_bit(directory, tmp_path, dtype):
    model = tfgpt.CausalLM.from_pretrained(directory, dtype=dtype)
    model.save_pretrained(tmp_path / "copy")
    again = tfgpt.CausalLM.from_pretrained(tmp_path / "copy", dtype=dtype).named_weights()
    for name, variable in model.named_weights().items():
        assert again[name].dtype == dtype
        np.testing.assert_array_equal(
            np.asarray(again[name]).view("u2"), np.asarray(variable).view("u2"), name
        )


@pytest.mark.parametrize("directory", BASES, indirect=True)
def test_a_missing_or_left_over_tensor_is_named(directory, tmp_path):
    names = sorted(load_file(directory / "model.safetensors"))
    for number, name in enumerate(names[:: max(1, len(names) // 6)]):
        path = damaged(directory, tmp_path / str(number), lambda tensors, name=name: tensors.pop(name))
        with pytest.raises(InputError, match=f"'{name.split('.', 1)[1]}' is missing|'{name}' is missing"):
            tfgpt.CausalLM.from_pretrained(path)
    extra = names[0].rsplit(".", 1)[0] + ".gate"
    path = damaged(directory, tmp_path / "extra", lambda tensors: tensors.update({extra: np.ones(2, "f")}))
    with pytest.raises(InputError, match=rf"'(\w+\.)?{extra.split('.', 1)[1]}' has no place in a "):
        tfgpt.CausalLM.from_pretrained(path)
