"""Writing model directories: bit-equal round trips, shards, and failures that leave nothing behind."""

import json
import os
import re

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import tfgpt
from tfgpt import InputError
from tfgpt.checkpoints import writers
from tfgpt.checkpoints.readers import TensorReader
from tfgpt.checkpoints.rules import TRANSPOSE, Rule, expand, readable, side_by_side, written


@pytest.fixture(scope="module", params=["base", "untied"])
def source(request, fixtures_directory):
    """A recorded directory as transformers wrote it."""
    return fixtures_directory / "gpt2" / request.param


@pytest.fixture(scope="module")
def model(source):
    return tfgpt.CausalLM.from_pretrained(source)


@pytest.fixture(scope="module")
def small():
    return tfgpt.CausalLM(tfgpt.ModelConfig(13, 8, 1, 2, 8, eos_token_id=5))


def tree(directory):
    """Everything beside and below a directory, with its content."""
    return {path: path.is_file() and path.read_bytes() for path in sorted(directory.rglob("*"))}


def test_the_tensors_are_those_that_transformers_wrote(source, model, tmp_path):
    model.save_pretrained(tmp_path / "copy")
    theirs, ours = (load_file(path / "model.safetensors") for path in (source, tmp_path / "copy"))
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
        assert ours[name].dtype == tensor.dtype


def test_config_json_keeps_what_transformers_wrote(source, model, tmp_path):
    model.save_pretrained(tmp_path / "copy")
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (source, tmp_path / "copy"))
    differ = {key for key in theirs if key in ours and ours[key] != theirs[key]}
    assert differ <= {"n_inner"}  # null means what we state
    assert json.loads((tmp_path / "copy" / "generation_config.json").read_text())["eos_token_id"] == 0


@pytest.mark.parametrize("size", [1, 5_000, 40_000])
def test_shards(model, tmp_path, size):
    model.save_pretrained(tmp_path / "copy", max_shard_size=size)
    index = json.loads((tmp_path / "copy" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "copy").glob("*.safetensors"))
    assert files == sorted(set(index["weight_map"].values()))
    assert all(re.fullmatch(rf"model-\d{{5}}-of-{len(files):05d}\.safetensors", name) for name in files)
    total = 0
    for file in files:
        tensors = load_file(tmp_path / "copy" / file)
        assert {name for name, where in index["weight_map"].items() if where == file} == set(tensors)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        assert num_bytes <= size or len(tensors) == 1
        total += num_bytes
    assert index["metadata"]["total_size"] == total
    again = tfgpt.CausalLM.from_pretrained(tmp_path / "copy")
    for name, variable in again.named_weights().items():
        np.testing.assert_array_equal(variable, model.named_weights()[name])


def test_a_failure_leaves_the_old_directory_and_nothing_else(small, tmp_path, monkeypatch):
    small.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    before = tree(tmp_path)

    def write_all(file, content):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(writers, "_write_all", write_all)
    for name in ("model", "new", "deep/er"):
        with pytest.raises(OSError, match="no space left"):
            small.save_pretrained(tmp_path / name)
    (tmp_path / "deep").rmdir()
    assert tree(tmp_path) == before


def test_saving_again_keeps_the_tokenizer_and_no_old_shards(small, tmp_path):
    small.save_pretrained(tmp_path / "model", max_shard_size=1)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    small.save_pretrained(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saving_again_keeps_what_only_looks_like_weights(small, tmp_path):
    mine = ("model-old.safetensors", "model-1-of-2.safetensors", "model-00001/mine")
    for name in mine:
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_text("mine")
    small.save_pretrained(tmp_path / "model")
    assert all((tmp_path / "model" / name).read_text() == "mine" for name in mine)


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00009.safetensors", "config.json"])
@pytest.mark.parametrize("size", [500, 5_000_000])
def test_saving_takes_no_directory_for_weights(small, tmp_path, name, size):
    (tmp_path / "model" / name).mkdir(parents=True)
    (tmp_path / "model" / name / "mine").touch()
    with pytest.raises(InputError, match=f"found a directory at .*{name}, expected a file"):
        small.save_pretrained(tmp_path / "model", max_shard_size=size)
    assert os.listdir(tmp_path / "model" / name) == ["mine"] and len(tree(tmp_path / "model")) == 2


def test_saving_takes_no_link_to_a_directory_for_weights(small, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=r"found a directory at .*model\.safetensors, expected a file"):
        small.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").is_symlink()


def test_saving_and_loading_mean_the_same_home_directory(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    small.save_pretrained("~/model")
    assert os.listdir(tmp_path) == ["model"]
    assert tfgpt.CausalLM.from_pretrained("~/model").config.eos_token_id == 5


@pytest.mark.parametrize("size", [True, 0, -1, 1.5, "5GB", None])
def test_what_is_no_size_of_a_shard(small, tmp_path, size):
    with pytest.raises(InputError, match="max_shard_size"):
        small.save_pretrained(tmp_path / "model", max_shard_size=size)
    small.save_pretrained(tmp_path / "model", max_shard_size=np.int64(500))
    assert (tmp_path / "model" / "model.safetensors.index.json").exists()


def test_saving_over_a_file_is_refused(small, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(InputError, match=r"model is a file: expected a directory"):
        small.save_pretrained(tmp_path / "model")
    assert tree(tmp_path) == {tmp_path / "model": b"mine"}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"norm": "rms"}, "norm"),
        ({"residual": "parallel_two_norms"}, "residual"),
        ({"residual": "post_norm"}, "residual"),
        ({"positions": "rotary_split"}, "positions"),
        ({"score_scale": 0.5}, "score_scale"),
        ({"attention_pattern": ("global", "local"), "window": 2, "num_layers": 2}, "attention_pattern"),
        ({"num_key_value_heads": 1}, "key heads"),
        ({"head_dim": 3}, "heads of 3"),
        ({"mlp_bias": False}, "mlp_bias"),
        ({"tie_embeddings": False, "head_bias": True}, "head_bias"),
    ],
    ids=str,
)
def test_a_model_that_the_format_cannot_say_is_refused(tmp_path, changes, word):
    """Each of these would read back as another model."""
    config = tfgpt.ModelConfig(**{"vocabulary_size": 13, "context_length": 8, "num_layers": 1, "num_heads": 2,
                                  "hidden_dim": 8, **changes})  # fmt: skip
    with pytest.raises(InputError, match=word):
        tfgpt.CausalLM(config).save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_half_precision_weights_keep_their_dtype(tmp_path):
    model = tfgpt.CausalLM(tfgpt.ModelConfig(13, 8, 1, 2, 8), dtype="bfloat16")
    model.save_pretrained(tmp_path / "model")
    reader = TensorReader(tmp_path / "model")
    assert {reader.dtype(name) for name in reader.names()} == {"bfloat16"}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    again = tfgpt.CausalLM.from_pretrained(tmp_path / "model", dtype="bfloat16")
    for name, variable in again.named_weights().items():
        np.testing.assert_array_equal(
            np.asarray(variable).astype("f"), np.asarray(model.named_weights()[name]).astype("f")
        )


def test_frozen_weights_are_saved_too(tmp_path):
    model = tfgpt.CausalLM(tfgpt.ModelConfig(13, 8, 1, 2, 8, dropout=0.1, tie_embeddings=False))
    names = set(model.named_weights())
    model.decoder.token_embedding.trainable = False
    model.decoder.blocks[0].trainable = False
    model.save_pretrained(tmp_path / "model")
    assert set(tfgpt.CausalLM.from_pretrained(tmp_path / "model").named_weights()) == names


def test_names_do_not_depend_on_where_a_model_was_made(small):
    with keras.name_scope("outer"):
        model = tfgpt.CausalLM(small.config, name="mine")
    assert list(model.named_weights()) == list(small.named_weights())
    assert "decoder/final_norm/scale" in model.named_weights()


def test_rules_expand_and_invert():
    rows = expand((Rule("a", "b"), Rule("h.{layer}.x", "block_{layer}/y", TRANSPOSE)), num_layers=11)
    assert [row.sources for row in rows] == [("a",), *((f"h.{i}.x",) for i in range(11))]
    assert rows[-1].target == "block_10/y"
    tensor = np.arange(6).reshape(2, 3)
    (there,) = rows[1].transform.forward([tensor])
    (back,) = rows[1].transform.inverse([there])
    assert there.shape == (3, 2) and back.shape == (2, 3)
    np.testing.assert_array_equal(back, tensor)


def test_tensors_side_by_side_come_apart_again(rng):
    one, two = rng.normal(size=(4, 3)), rng.normal(size=(2, 3))
    transform = side_by_side(4, 2)
    (there,) = transform.forward([one, two])
    np.testing.assert_array_equal(there, np.concatenate([one.T, two.T], axis=1))
    back = transform.inverse([there])
    np.testing.assert_array_equal(back[0], one)
    np.testing.assert_array_equal(back[1], two)
    (bias,) = transform.forward([one[:, 0], two[:, 0]])
    np.testing.assert_array_equal(bias, [*one[:, 0], *two[:, 0]])


@pytest.mark.parametrize(
    ("dtypes", "common"),
    [
        (("float16", "float16"), "float16"),
        (("bfloat16", "float32"), "float32"),
        (("float16", "bfloat16"), "float32"),
        (("float16", "float64"), "float64"),
    ],
)
def test_tensors_side_by_side_lose_nothing(rng, dtypes, common):
    one, two = (rng.normal(size=(2, 3)).astype(dtype) for dtype in dtypes)
    (there,) = side_by_side(2, 2).forward([one, two])
    assert there.dtype == common
    for back, tensor in zip(side_by_side(2, 2).inverse([there]), (one, two), strict=True):
        np.testing.assert_array_equal(back, tensor.astype(common))


@pytest.mark.parametrize("shapes", [((3, 3), (3, 3)), ((6, 3),), ((), (6, 3))])
def test_tensors_side_by_side_have_their_sizes(shapes):
    with pytest.raises(ValueError, match=r"rows, expected \(4, 2\)"):
        side_by_side(4, 2).forward([np.zeros(shape) for shape in shapes])


def test_rows_of_one_target_are_alternatives():
    rows = [Rule("plain", "x"), Rule(("packed", "scale"), "x"), Rule("c", "z")]
    assert written(rows) == [rows[0], rows[2]]
    assert readable(rows, {"packed", "scale", "c"}) == [rows[1], rows[2]]
    assert readable(rows, {"plain", "packed", "scale", "c"}) == [rows[0], rows[2]]
    assert readable(rows, {"packed", "c"}) == [rows[0], rows[2]]  # whose lack is then told
