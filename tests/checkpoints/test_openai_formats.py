"""OpenAI's own files of GPT-1 and GPT-2: tiny ones, written from a model of transformers, give its logits."""

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tfgpt
from tfgpt import InputError
from tfgpt.checkpoints.openai import BLOCK, GPT2_NAMES, NumpyShards
from tfgpt.checkpoints.sources import format_of
from tfgpt.cli import main

LAYERS = 3


def theirs(family):
    """A random model of transformers, and its tensors by their published names without the prefix."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "n_positions": 16, "n_embd": 24, "n_layer": LAYERS}
    if family == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, n_head=3))
    else:
        model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**sizes, n_head=12))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tensors = {name.removeprefix("transformer."): each.numpy() for name, each in model.state_dict().items()}
    return model.eval(), tensors


def as_convolution(tensor, name):
    """OpenAI's kernels are convolutions of width 1."""
    return tensor[None] if name.endswith("/w") else tensor


def write_gpt2(directory, tensors):
    import tensorflow as tf

    names = {ours: name for name, ours in GPT2_NAMES.items()}
    for layer in range(LAYERS):
        names |= {f"h.{layer}.{ours}": f"model/h{layer}/{name}" for name, ours in BLOCK.items()}
    stored = {name: as_convolution(tensors[ours], name) for ours, name in names.items()}
    tf.raw_ops.SaveV2(
        prefix=str(directory / "model.ckpt"),
        tensor_names=list(stored),
        shape_and_slices=[""] * len(stored),
        tensors=[tf.constant(each) for each in stored.values()],
    )
    (directory / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    sizes = {"n_vocab": 61, "n_ctx": 16, "n_embd": 24, "n_head": 3, "n_layer": LAYERS}
    (directory / "hparams.json").write_text(json.dumps(sizes))
    (directory / "encoder.json").write_text('{"a": 0, "<|endoftext|>": 60}')
    (directory / "vocab.bpe").write_text("#version: 0.2\n")


def write_gpt1(directory, tensors):
    ordered = [tensors["positions_embed.weight"], tensors["tokens_embed.weight"]]
    for layer in range(LAYERS):
        ordered += [as_convolution(tensors[f"h.{layer}.{ours}"], name) for name, ours in BLOCK.items()]
    (directory / "params_shapes.json").write_text(json.dumps([each.shape for each in ordered]))
    flat = np.concatenate([each.reshape(-1) for each in ordered])
    for number, part in enumerate(np.array_split(flat, 10)):  # the cuts go through tensors
        np.save(directory / f"params_{number}.npy", part, allow_pickle=False)
    (directory / "encoder_bpe_40000.json").write_text('{"a": 0}')
    (directory / "vocab_40000.bpe").write_text("#version: 0.2\n")


@pytest.mark.parametrize(("family", "write"), [("gpt1", write_gpt1), ("gpt2", write_gpt2)])
def test_converted_files_give_the_logits_of_transformers(family, write, tmp_path, capsys):
    model, tensors = theirs(family)
    source = tmp_path / "model-of-unknown-name"
    source.mkdir()
    write(source, tensors)
    assert main(["convert", str(source), str(tmp_path / "converted"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["family"] == family and facts["parameters"] == sum(map(len_of, model.parameters()))
    names = {path.name for path in (tmp_path / "converted").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "vocab.json", "merges.txt",
                     "tokenizer_config.json"}  # fmt: skip
    ours = tfgpt.CausalLM.from_pretrained(tmp_path / "converted")
    token_ids = np.array([[5, 9, 60, 0, 33]])
    expected = model(pytest.importorskip("torch").tensor(token_ids)).logits.detach().numpy()
    np.testing.assert_allclose(np.asarray(ours(token_ids)), expected, atol=1e-5, rtol=1e-5)
    # The reference reads what was written, bit for bit.
    again = type(model).from_pretrained(tmp_path / "converted").state_dict()
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(again[name].numpy(), tensor.numpy())


def len_of(parameter):
    return parameter.numel()


@pytest.fixture
def gpt1(tmp_path, rng):
    """A GPT-1 directory without transformers' help."""
    block = {"w": (24, 24), "b": (24,), "g": (24,)}
    shapes = {"positions_embed.weight": (16, 24), "tokens_embed.weight": (61, 24)}
    shapes |= {
        f"h.{layer}.{ours}": block[name[-1]] for layer in range(LAYERS) for name, ours in BLOCK.items()
    }
    write_gpt1(tmp_path, {name: rng.normal(size=shape).astype("f") for name, shape in shapes.items()})
    return tmp_path


def refused(directory, *words, capsys):
    target = directory.parent / "converted"
    capsys.readouterr()
    assert main(["convert", str(directory), str(target)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert not target.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["params_shapes.json", "params_3.npy"])
def test_pipes_among_gpt1_files_are_not_waited_for(gpt1, name, capsys):
    (gpt1 / name).unlink()
    os.mkfifo(gpt1 / name)
    refused(gpt1, name, "is no file", capsys=capsys)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: (path / "params_3.npy").unlink(), ("params_9.npy", "missing")),
        (lambda path: (path / "params_9.npy").unlink(), ("numbers", "asks for")),
        (lambda path: (path / "params_3.npy").write_bytes(b"\x93NUMPY"), ("params_3.npy", "numpy file")),
        (lambda path: np.save(path / "params_3.npy", np.zeros(9, "i")), ("int32", "float32")),
        (lambda path: np.save(path / "params_3.npy", np.full(9, np.nan, "f")), ("numbers",)),
        (lambda path: (path / "params_shapes.json").write_text("[[1]]"), ("1 shapes",)),
        (lambda path: (path / "params_shapes.json").write_text("[[-1, 2]]"), ("no tensor of GPT-1",)),
        (lambda path: (path / "params_shapes.json").write_text("[" * 99999), ("list of shapes",)),
        (lambda path: (path / "params_shapes.json").write_text('{"a": 1}'), ("no tensor of GPT-1",)),
    ],
    ids=range(9),
)
def test_damaged_gpt1_files(gpt1, damage, words, capsys):
    damage(gpt1)
    if words[0] == "params_9.npy":  # nine are left, and the fourth of them is not there
        words = ("params_3.npy", "missing")
    refused(gpt1, *words, capsys=capsys)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: (path / "model.ckpt.index").unlink(), ("*.index",)),
        (lambda path: (path / "model.ckpt.index").write_bytes(b"index"), ("TensorFlow checkpoint",)),
        (lambda path: (path / "model.ckpt.data-00000-of-00001").write_bytes(b"x"), ("data files",)),
        (lambda path: (path / "hparams.json").write_text("{}"), ("n_vocab",)),
        (lambda path: (path / "hparams.json").write_text("[]"), ("hparams.json",)),
    ],
    ids=range(5),
)
def test_damaged_gpt2_files(damage, words, tmp_path, capsys):
    _, tensors = theirs("gpt2")
    source = tmp_path / "source"
    source.mkdir()
    write_gpt2(source, tensors)
    damage(source)
    refused(source, *words, capsys=capsys)


def test_a_directory_of_no_format_names_the_formats(tmp_path):
    with pytest.raises(InputError, match=r"params_shapes\.json.*hparams\.json"):
        format_of(tmp_path)


_SHAPES = st.recursive(
    st.integers(-3, 10**12) | st.floats() | st.text(max_size=3) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=30),
    max_leaves=40,
)


@settings(max_examples=100)
@given(shapes=_SHAPES)
def test_any_shapes_are_read_or_refused(tmp_path_factory, shapes):
    directory = tmp_path_factory.mktemp("any")
    (directory / "params_shapes.json").write_text(json.dumps(shapes))
    np.save(directory / "params_0.npy", np.zeros(9, "f"))
    with pytest.raises(InputError):
        NumpyShards(directory)


def test_convert_keeps_generation_config_and_takes_a_dtype(model_directory, tmp_path, capsys):
    stated = {"eos_token_id": 0, "temperature": 0.7, "do_sample": True}
    (model_directory / "generation_config.json").write_text(json.dumps(stated))
    target = tmp_path / "converted"
    arguments = [
        "convert",
        str(model_directory),
        str(target),
        "--dtype",
        "bfloat16",
        "--max-shard-size",
        "9999",
    ]
    assert main(arguments) == 0
    assert json.loads((target / "generation_config.json").read_text()) == stated
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    assert len(list(target.glob("model-*.safetensors"))) > 1
    whole = tfgpt.CausalLM.from_pretrained(model_directory, dtype="bfloat16").named_weights()
    for name, weight in tfgpt.CausalLM.from_pretrained(target, dtype="bfloat16").named_weights().items():
        np.testing.assert_array_equal(np.asarray(weight).view("u2"), np.asarray(whole[name]).view("u2"))


@pytest.mark.parametrize(
    ("narrow", "common"), [("float16", "float32"), ("bfloat16", "float32"), ("float64", "float64")]
)
def test_convert_narrows_nothing_unasked(fixtures_directory, tmp_path, narrow, common):
    """Queries, keys and values are one weight of tfgpt's, though of one dtype only."""
    source, target = fixtures_directory / "gptj" / "base", tmp_path / "converted"
    shutil.copytree(source, tmp_path / "mixed")
    tensors = load_file(source / "model.safetensors")
    name = "transformer.h.0.attn.q_proj.weight"
    tensors[name] = tensors[name].astype(narrow)
    save_file(tensors, tmp_path / "mixed" / "model.safetensors", metadata={"format": "pt"})
    assert main(["convert", str(tmp_path / "mixed"), str(target)]) == 0
    for key, tensor in load_file(target / "model.safetensors").items():
        is_beside = key.startswith("transformer.h.0.attn.") and key != "transformer.h.0.attn.out_proj.weight"
        assert tensor.dtype == (common if is_beside else "float32")
        np.testing.assert_array_equal(tensor, tensors[key].astype(tensor.dtype))


@pytest.fixture(scope="module")
def sound_gpt2(tmp_path_factory):
    """The bytes of a sound GPT-2 directory of OpenAI's, made without transformers."""
    directory = tmp_path_factory.mktemp("gpt2")
    random = np.random.default_rng(0)
    shapes = {"wte.weight": (61, 24), "wpe.weight": (16, 24), "ln_f.weight": (24,), "ln_f.bias": (24,)}
    block = {"w": (24, 24), "b": (24,), "g": (24,)}
    shapes |= {f"h.{i}.{ours}": block[name[-1]] for i in range(LAYERS) for name, ours in BLOCK.items()}
    write_gpt2(directory, {name: random.normal(size=shape).astype("f") for name, shape in shapes.items()})
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def reads_or_refuses(directory, files):
    """Opens a directory and reads every tensor; nothing but InputError, in one line, may come out."""
    for name, content in files.items():
        (directory / name).write_bytes(content)
    try:
        found = format_of(directory)
        found.read_config(directory)
        reader = found.reader(directory)
        for name in reader.names():
            reader.read(name)
    except InputError as error:
        assert "\n" not in str(error)
        return False
    return True


def test_the_sound_directory_is_read(sound_gpt2, tmp_path):
    assert reads_or_refuses(tmp_path, sound_gpt2)


@settings(max_examples=100)
@given(data=st.data())
def test_any_bytes_of_a_tensorflow_checkpoint_are_read_or_refused(tmp_path_factory, sound_gpt2, data):
    name = data.draw(st.sampled_from(["model.ckpt.index", "model.ckpt.data-00000-of-00001"]))
    whole = sound_gpt2[name]
    at = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.sampled_from([0, 1, 4, len(whole)]))  # inserted, replaced, or cut off
    damaged = whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + length :]
    reads_or_refuses(tmp_path_factory.mktemp("any"), {**sound_gpt2, name: damaged})


@settings(max_examples=100)
@given(data=st.data())
def test_any_hparams_are_read_or_refused(tmp_path_factory, sound_gpt2, data):
    values = json.loads(sound_gpt2["hparams.json"])
    values.update(data.draw(st.dictionaries(st.sampled_from(sorted(values)), _SHAPES, max_size=2)))
    text = json.dumps(data.draw(st.sampled_from([values, [values], None]))).encode()
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.sampled_from([b"", b"\xff", b"}"])) + text[at:]
    reads_or_refuses(tmp_path_factory.mktemp("any"), {**sound_gpt2, "hparams.json": text})
