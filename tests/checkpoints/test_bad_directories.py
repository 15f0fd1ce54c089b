"""Damaged and contradictory model directories: each is one line that names what was found."""

import json
import os
import shutil
import struct
import tracemalloc

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tfgpt
from tfgpt import InputError
from tfgpt.checkpoints.directory import read_model_config
from tfgpt.cli import main

REMOVED = object()


def refused(directory, *words):
    """Loading raises one line of `InputError` with all the words in it."""
    with pytest.raises(InputError) as caught:
        tfgpt.CausalLM.from_pretrained(directory)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def change_config(directory, **changes):
    path = directory / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not REMOVED}))


def change_tensors(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_missing_things(model_directory, tmp_path):
    refused(tmp_path / "nowhere" / "at" / "all", "does not exist", "hub id")
    refused(model_directory / "config.json", "is a file")
    (model_directory / "model.safetensors").unlink()
    refused(model_directory, "no model.safetensors")
    (model_directory / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(model_directory, "pickled weights (pytorch_model.bin)")
    (model_directory / "config.json").unlink()
    refused(model_directory, "config.json is missing")


def test_a_name_that_is_no_directory_says_so_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("no-such/model", "'no-such/model'", "not a directory")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not readable JSON"),
        ('{"model_type": "gpt2"', "not readable JSON"),
        ("[1]", "holds a list"),
        ("[" * 100_000, "not readable JSON"),
        ("\xff\xfe", "not readable JSON"),
        ("{}", "no 'model_type'"),
        ('{"model_type": "gpt2"}', "'vocab_size'"),
        ('{"model_type": "gtp2"}', "did you mean 'gpt2'?"),
        ('{"model_type": "llama"}', "model_type 'llama'"),
        ('{"model_type": ["gpt2"]}', "model_type ['gpt2']"),
        ('{"model_type": null}', "model_type None"),
        ('{"model_type": "gpt2", "a\\nb": 1}', "a\\nb"),
    ],
    ids=range(12),
)
def test_config_json_that_is_not_one(model_directory, text, word):
    (model_directory / "config.json").write_bytes(text.encode("latin-1"))
    refused(model_directory, word, "config.json")


@pytest.mark.parametrize("key", ["vocab_size", "n_positions", "n_layer", "n_head", "n_embd"])
@pytest.mark.parametrize(
    "value",
    ["12", True, 12.0, None, -1, 0, [12], {}, float("nan"), REMOVED],
    ids=lambda value: "removed" if value is REMOVED else repr(value),
)
def test_sizes_of_the_wrong_kind(model_directory, key, value):
    change_config(model_directory, **{key: value})
    refused(model_directory, "config.json", key)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_head": 5}, ("hidden_dim 24", "num_heads 5")),
        ({"n_layer": 12}, ("'h.11.ln_1.weight'", "missing", "11 more")),
        ({"n_layer": 10}, ("'h.10.", "no place")),
        ({"n_layer": 9999}, ("9999 layers", "tensors")),
        ({"n_embd": 28}, ("[97, 24]", "[97, 28]")),
        ({"n_embd": 2 * 10**9}, ("[97, 24]",)),
        ({"vocab_size": 96}, ("'transformer.wte.weight'", "[97, 24]", "[96, 24]")),
        ({"vocab_size": 2 * 10**9}, ("[97, 24]",)),
        ({"n_positions": 128}, ("wpe.weight", "[80, 24]", "[128, 24]")),
        ({"n_inner": 95}, ("c_fc.weight", "[24, 96]", "[24, 95]")),
        ({"tie_word_embeddings": False}, ("lm_head.weight", "missing")),
        ({"tie_word_embeddings": "no"}, ("'no'", "tie_word_embeddings")),
        ({"activation_function": "gelu_now"}, ("'gelu_now'", "did you mean 'gelu_new'?")),
        ({"activation_function": []}, ("activation_function",)),
        ({"scale_attn_weights": "false"}, ("scale_attn_weights", "'false'")),
        ({"layer_norm_epsilon": 0}, ("norm_epsilon", "layer_norm_epsilon")),
        ({"layer_norm_epsilon": float("inf")}, ("norm_epsilon",)),
        ({"initializer_range": float("nan")}, ("initializer_range",)),
        ({"resid_pdrop": 1.5}, ("1.5", "resid_pdrop")),
        ({"quantization_config": {"quant_method": "gptq"}}, ("'gptq'", "quantized")),
        ({"quantization_config": {"quant_method": ["fp8"]}}, ("quantized",)),
        ({"add_cross_attention": True}, ("add_cross_attention",)),
        ({"eos_token_id": "end"}, ("'end'", "eos_token_id")),
    ],
    ids=str,
)
def test_config_json_that_contradicts(model_directory, changes, words):
    change_config(model_directory, **changes)
    refused(model_directory, *words)


def test_special_tokens_outside_the_vocabulary_are_none(model_directory):
    change_config(model_directory, bos_token_id=50256, eos_token_id=50256, pad_token_id=-1)
    config = tfgpt.CausalLM.from_pretrained(model_directory).config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 2000, 20_000, -1])
def test_truncated_weights(model_directory, size):
    path = model_directory / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    refused(model_directory, "model.safetensors", "not a whole safetensors file", "download it again")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: struct.pack("<Q", 10) + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: data[:8] + b"\xff" + data[9:],
        lambda data: data + b"more",
        lambda data: data.replace(b'"F32"', b'"F99"', 1),
        lambda data: data.replace(b"[24]", b"[25]", 1),
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n",
    ],
    ids=["length", "short", "list", "text", "longer", "dtype", "shape", "pointer"],
)
def test_corrupt_header(model_directory, damage):
    path = model_directory / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused(model_directory, "model.safetensors", "not a whole safetensors file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("transformer.h.3.ln_1.bias"), ("'h.3.ln_1.bias'", "missing")),
        (lambda t: t.update({"extra": np.zeros(1, "f")}), ("'extra'", "no place", "GPT-2")),
        (
            lambda t: t.update({"transformer.ln_f.weight": np.ones(23, "f")}),
            ("ln_f.weight", "[23]", "[24]"),
        ),
        (lambda t: t["transformer.wte.weight"].__setitem__((5, 5), np.nan), ("wte.weight", "NaN")),
        (lambda t: t["transformer.wte.weight"].__setitem__((5, slice(2)), [np.inf, -np.inf]), ("infinite",)),
        (
            lambda t: t.update({"transformer.ln_f.weight": np.ones(24, "int8")}),
            ("ln_f.weight", "int8", "float32"),
        ),
        (
            lambda t: t.update({"ln_f.weight": np.ones(24, "f")}),
            ("both", "'ln_f.weight'", "'transformer.ln_f.weight'"),
        ),
        (lambda t: t.clear(), ("11 layers", "0 tensors")),
    ],
    ids=["missing", "extra", "shape", "nan", "infinite", "integers", "twice", "empty"],
)
def test_wrong_tensors(model_directory, change, words):
    change_tensors(model_directory, change)
    refused(model_directory, *words)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{", ("index.json is not readable JSON",)),
        ("[" * 100_000, ("not readable JSON",)),
        ("[]", ("holds a list",)),
        ("{}", ("not an index", "weight_map")),
        ('{"weight_map": ["a"]}', ("not an index",)),
        ('{"weight_map": {"a": ["b"]}}', ("names ['b']",)),
        ('{"weight_map": {"a": 1}}', ("names 1",)),
        ('{"weight_map": {"a": "../model.safetensors"}}', ("'../model.safetensors'", "own directory")),
        ('{"weight_map": {"a": "/etc/passwd"}}', ("'/etc/passwd'", "own directory")),
        ('{"weight_map": {"a": ".."}}', ("'..'",)),
        ('{"weight_map": {"a": ""}}', ("''",)),
        ('{"weight_map": {"a": "a\\u0000b"}}', ("a\\x00b",)),
        ('{"weight_map": {"a": "gone.safetensors"}}', ("gone.safetensors is missing",)),
        ('{"weight_map": {"a": "config.json"}}', ("'config.json'", "safetensors files")),
        ('{"weight_map": {}}', ("0 tensors",)),
    ],
    ids=range(15),
)
def test_index_of_shards(model_directory, index, words):
    (model_directory / "model.safetensors").unlink()
    (model_directory / "model.safetensors.index.json").write_text(index)
    refused(model_directory, *words)


@pytest.fixture
def sharded(model_directory, tmp_path):
    """A sound directory of several shards."""
    model = tfgpt.CausalLM.from_pretrained(model_directory)
    model.save_pretrained(tmp_path / "sharded", max_shard_size=40_000)
    return tmp_path / "sharded"


def test_index_and_shards_that_disagree(sharded):
    path = sharded / "model.safetensors.index.json"
    whole = json.loads(path.read_text())
    name, other = "transformer.wte.weight", sorted(set(whole["weight_map"].values()))[-1]
    for change, words in (
        ({name: other}, ("wte.weight", f"says it is in {other}")),
        ({"gone": other}, ("'gone'", other, "does not have it")),
    ):
        path.write_text(json.dumps({"weight_map": {**whole["weight_map"], **change}}))
        refused(sharded, *words)
    path.write_text(json.dumps({"weight_map": {k: v for k, v in whole["weight_map"].items() if k != name}}))
    refused(sharded, "wte.weight", "does not list it")
    path.write_text(json.dumps(whole))
    twice = {**load_file(sharded / other), name: np.zeros((97, 24), "f")}
    save_file(twice, sharded / other, metadata={"format": "pt"})
    refused(sharded, "wte.weight", "says it is in model-00001")


def test_shards_may_be_links_as_in_the_cache_of_the_hub(sharded, tmp_path):
    (tmp_path / "blobs").mkdir()
    for path in list(sharded.glob("*.safetensors")):
        path.rename(tmp_path / "blobs" / path.name)
        path.symlink_to(tmp_path / "blobs" / path.name)
    tfgpt.CausalLM.from_pretrained(sharded)


# ---------------------------------------------------------------- any input at all

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def sound(fixtures_directory):
    """The bytes of a small sound model directory."""
    directory = fixtures_directory / "gpt2" / "unscaled"
    return {name: (directory / name).read_bytes() for name in ("config.json", "model.safetensors")}


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory):
    """A model directory that the examples of one property overwrite."""
    return tmp_path_factory.mktemp("any")


def write(directory, files):
    """Puts the files into the directory."""
    for name, content in files.items():
        (directory / name).write_bytes(content)


def loads_or_refuses(directory):
    try:
        tfgpt.CausalLM.from_pretrained(directory)
    except InputError as error:
        assert "\n" not in str(error)


@settings(max_examples=120)
@given(data=st.data())
def test_any_value_in_config_json_loads_or_is_refused(shared_directory, sound, data):
    values = json.loads(sound["config.json"])
    keys = st.sampled_from([*sorted(values), "unknown"])
    values.update(data.draw(st.dictionaries(keys, _JSON, min_size=1, max_size=2)))
    write(shared_directory, {**sound, "config.json": json.dumps(values).encode()})
    loads_or_refuses(shared_directory)


@settings(max_examples=150)
@given(data=st.data())
def test_any_header_of_safetensors_is_refused_or_read(shared_directory, sound, data):
    whole = sound["model.safetensors"]
    (size,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + size])
    name = data.draw(st.sampled_from(sorted(header)))
    kind = data.draw(st.sampled_from(["value", "field", "bytes", "offset"]))
    if kind == "bytes":
        at = data.draw(st.integers(0, size + 7))
        damaged = whole[:at] + data.draw(st.binary(min_size=1, max_size=4)) + whole[at + 1 :]
    else:
        if kind == "value" or name == "__metadata__":
            header[name] = data.draw(_JSON)
        elif kind == "field":
            header[name][data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = data.draw(_JSON)
        else:
            header[name]["data_offsets"] = data.draw(st.lists(st.integers(-1, 2**64), min_size=2, max_size=2))
        text = json.dumps(header).encode()
        damaged = struct.pack("<Q", len(text)) + text + whole[8 + size :]
    write(shared_directory, {**sound, "model.safetensors": damaged})
    loads_or_refuses(shared_directory)


@pytest.fixture(scope="module")
def sound_shards(fixtures_directory, tmp_path_factory):
    """The bytes of a small sound directory of several shards."""
    directory = tmp_path_factory.mktemp("shards")
    source = fixtures_directory / "gpt2" / "unscaled"
    tfgpt.CausalLM.from_pretrained(source).save_pretrained(directory / "model", max_shard_size=4_000)
    return {path.name: path.read_bytes() for path in (directory / "model").iterdir()}


@settings(max_examples=100)
@given(data=st.data())
def test_any_index_of_shards_is_refused_or_read(tmp_path_factory, sound_shards, data):
    directory = tmp_path_factory.mktemp("index")
    index = json.loads(sound_shards["model.safetensors.index.json"])
    names = sorted(index["weight_map"])
    files = st.sampled_from([*sorted(sound_shards), "../x.safetensors", "gone.safetensors"])
    kind = data.draw(st.sampled_from(["file", "value", "left out", "map", "whole", "bytes"]))
    if kind == "file":
        index["weight_map"][data.draw(st.sampled_from([*names, "more"]))] = data.draw(files)
    elif kind == "value":
        index["weight_map"][data.draw(st.sampled_from(names))] = data.draw(_JSON)
    elif kind == "left out":
        del index["weight_map"][data.draw(st.sampled_from(names))]
    elif kind == "map":
        index["weight_map"] = data.draw(_JSON)
    text = json.dumps(data.draw(_JSON) if kind == "whole" else index).encode()
    if kind == "bytes":
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.binary(max_size=4)) + text[at + 1 :]
    write(directory, {**sound_shards, "model.safetensors.index.json": text})
    loads_or_refuses(directory)


@pytest.mark.parametrize("promised", [2**62, 2**40, 2**31], ids=["exabytes", "terabytes", "gigabytes"])
@pytest.mark.parametrize("place", ["header", "offsets", "shape"])
def test_promises_of_huge_tensors_take_no_memory(model_directory, promised, place):
    """What a header promises is held against the file before anything of that size is made."""
    path = model_directory / "model.safetensors"
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + size])
    entry = header["transformer.wte.weight"]
    if place == "offsets":
        entry["data_offsets"] = [0, promised]
    elif place == "shape":
        entry["shape"] = [promised // 4, 1]
    text = json.dumps(header).encode()
    length = promised if place == "header" else len(text)
    path.write_bytes(struct.pack("<Q", length) + text + whole[8 + size :])
    tracemalloc.start()
    try:
        refused(model_directory, "model.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["gpt1/base", "gpt2/heads_of_8", "gpt_neo/inner", "gpt_neox/sequential"])
def test_a_tied_head_that_is_stored_too_must_be_the_table(fixtures_directory, tmp_path, name):
    """transformers leaves the two untied where they differ, so that dropping one would change the logits."""
    shutil.copytree(fixtures_directory / name, tmp_path, dirs_exist_ok=True)
    family, _ = read_model_config(tmp_path)
    change_config(tmp_path, tie_word_embeddings=True)
    tensors = load_file(tmp_path / "model.safetensors")
    suffixes = ("wte.weight", "tokens_embed.weight", "embed_in.weight")
    table = next(tensor for key, tensor in tensors.items() if key.endswith(suffixes))
    head = f"{family.head}weight"
    save_file({**tensors, head: table}, tmp_path / "model.safetensors")
    tfgpt.CausalLM.from_pretrained(tmp_path)
    save_file({**tensors, head: table + 1}, tmp_path / "model.safetensors")
    refused(tmp_path, head, "differs from the token table")


@pytest.mark.parametrize("dtype, wide", [("float16", "take float32 or bfloat16"), ("float32", "no dtype")])
def test_loading_makes_no_infinite_numbers(model_directory, dtype, wide):
    size = np.float32(1e20) if dtype == "float16" else np.float64(1e300)
    change_tensors(
        model_directory,
        lambda tensors: tensors.update({name: each * size for name, each in tensors.items()}),
    )
    with pytest.raises(InputError, match=f"has numbers up to .*, more than {dtype} holds: {wide}"):
        tfgpt.CausalLM.from_pretrained(model_directory, dtype=dtype)


@pytest.mark.parametrize(
    "dtype",
    ["nonsense", "int8", "uint8", "bool", "complex64", "string", "float8_e4m3fn", "int8_from_float32", 5, {}],
)
def test_what_is_no_dtype(model_directory, dtype):
    with pytest.raises(InputError, match="expected a dtype policy of Keras"):
        tfgpt.CausalLM.from_pretrained(model_directory, dtype=dtype)
    with pytest.raises(InputError, match="expected a dtype policy of Keras"):
        tfgpt.CausalLM(tfgpt.ModelConfig(13, 8, 1, 2, 8), dtype=dtype)


def test_weights_that_may_not_be_read_are_not_called_missing(model_directory, monkeypatch):
    def denied(path, framework):
        raise FileNotFoundError(path)  # what safetensors makes of a file without permission

    monkeypatch.setattr("tfgpt.checkpoints.readers.safe_open", denied)
    refused(model_directory, "model.safetensors cannot be opened")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer.json", "additional_chat_templates/tools.jinja"],
)
@pytest.mark.parametrize(
    "make", [getattr(os, "mkfifo", None), lambda path: path.symlink_to("gone")], ids=["pipe", "link"]
)
def test_convert_waits_for_no_pipe_and_passes_over_no_broken_link(
    model_directory, tmp_path, capsys, name, make
):
    (model_directory / name).unlink(missing_ok=True)
    (model_directory / name).parent.mkdir(exist_ok=True)
    make(model_directory / name)
    assert main(["convert", str(model_directory), str(tmp_path / "out")]) == 2
    assert f"{name} is no file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_pipe_is_not_waited_for(model_directory, name):
    (model_directory / "model.safetensors").unlink()
    os.mkfifo(model_directory / name)
    refused(model_directory, name, "is no file")


PROJECTIONS = {
    "gptj/base": "transformer.h.1.attn.{}_proj.weight",
    "gpt_neo/base": "transformer.h.1.attn.attention.{}_proj.weight",
    "gpt_oss/base": "model.layers.1.self_attn.{}_proj.bias",
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_of_wrong_sizes_are_refused_though_their_sum_is_right(fixtures_directory, tmp_path, name):
    shutil.copytree(fixtures_directory / name, tmp_path, dirs_exist_ok=True)
    query, key = (PROJECTIONS[name].format(kind) for kind in "qk")

    def change(tensors):
        whole = np.concatenate([tensors[query], tensors[key]])
        tensors[query], tensors[key] = np.split(whole, [len(tensors[query]) + 2])

    change_tensors(tmp_path, change)
    refused(tmp_path, query, key, "has shape", "rows, expected (")


def test_a_second_head_of_a_tied_model_is_compared_under_its_prefix_too(model_directory):
    def change(tensors):
        tensors["transformer.lm_head.weight"] = tensors["transformer.wte.weight"] + 1

    change_tensors(model_directory, change)
    refused(model_directory, "transformer.lm_head.weight", "differs from the token table")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "found None, expected the path"),
        (5, "found 5, expected the path"),
        (b"model", "found b'model', expected the path"),
        ("", "is empty"),
        ("a\0b", "expected the path"),
        ("~nobody_of_this_name/model", "no home directory of that user"),
        ("x" * 300, "neither a directory nor an id of the hub"),
    ],
    ids=range(7),
)
def test_what_is_no_name_of_a_model(name, words, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=words):
        tfgpt.CausalLM.from_pretrained(name)


def test_a_global_policy_is_named_where_it_does_not_serve():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("int8_from_float32")
    try:
        with pytest.raises(InputError, match="found dtype='int8_from_float32'"):
            tfgpt.CausalLM(tfgpt.ModelConfig(13, 8, 1, 2, 8))
    finally:
        keras.config.set_dtype_policy(before)
    policy = keras.DTypePolicy("mixed_bfloat16")
    assert tfgpt.CausalLM(tfgpt.ModelConfig(13, 8, 1, 2, 8), dtype=policy).compute_dtype == "bfloat16"


def test_convert_to_a_file_asks_no_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tfgpt.checkpoints.hub._download", lambda *arguments: pytest.fail("it is asked"))
    (tmp_path / "out").touch()
    assert main(["convert", "openai-community/gpt2", str(tmp_path / "out")]) == 2
    assert "out is a file" in capsys.readouterr().err


def test_convert_takes_no_empty_name(model_directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(model_directory)
    assert main(["convert", "", str(tmp_path / "out")]) == 2
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["convert", str(model_directory), ""]) == 2
    assert capsys.readouterr().err.count("is empty: expected one") == 2
    assert sorted(os.listdir(tmp_path)) == ["empty", "model"] and not os.listdir(tmp_path / "empty")


def test_convert_puts_back_what_a_crash_left_and_replaces_no_only_copy(model_directory, tmp_path, capsys):
    (tmp_path / ".out.tfgpt.old").mkdir()
    (tmp_path / ".out.tfgpt.old" / "mine").touch()
    assert main(["convert", str(model_directory), str(tmp_path / "out")]) == 2
    assert "found mine in" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == ["mine"] and sorted(os.listdir(tmp_path)) == ["model", "out"]


@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e5), ("bfloat16", 3.4e38)])
def test_convert_writes_no_infinite_numbers(model_directory, tmp_path, capsys, dtype, value):
    change_tensors(model_directory, lambda tensors: tensors["transformer.wte.weight"].fill(value))
    assert main(["convert", str(model_directory), str(tmp_path / "new"), "--dtype", dtype]) == 2
    assert f"more than {dtype} holds" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
