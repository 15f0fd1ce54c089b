"""Loading from the hub, against a server of our own that notes what is asked of it."""

import json
import shutil

import pytest

import tfgpt
from tests.checkpoints.hub_server import COMMIT, HubServer

# A child loads with the client as it comes: the process of the tests is offline from its start.
CHILD = """
import json, sys
from pathlib import Path
from tfgpt.checkpoints.directory import read_model_config
from tfgpt.checkpoints.hub import resolve
from tfgpt.checkpoints.readers import TensorReader
from tfgpt.errors import InputError
for name, options in json.loads(sys.argv[1] if len(sys.argv) > 1 else {asked!r}):
    try:
        directory = resolve(name, options.pop("revision", None), check=read_model_config, **options)
        TensorReader(directory)
        print(json.dumps({{"files": sorted(path.name for path in directory.iterdir())}}))
    except InputError as error:
        print(json.dumps({{"refused": str(error)}}))
"""


@pytest.fixture
def hub(gpt2_directory, tmp_path):
    """A hub with one repository that has everything repositories have."""
    directory = tmp_path / "repository"
    shutil.copytree(gpt2_directory, directory)
    for name in (
        "pytorch_model.bin",
        "modeling.py",
        "tf_model.h5",
        "flax_model.msgpack",
        "model.onnx",
        "x.pt",
    ):
        (directory / name).write_bytes(b"not to be fetched")
    (directory / "vocab.json").write_text("{}")
    (directory / "merges.txt").write_text("#version: 0.2\n")
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    (directory / "onnx").mkdir()
    (directory / "onnx" / "config.json").write_text("{}")
    (directory / "onnx" / "model.safetensors").write_bytes(b"another form")
    with HubServer({"someone/model": directory}) as server:
        yield server


@pytest.fixture
def load(hub, python, tmp_path):
    """Resolves [(id, options)] in one child process with a cache of its own; their answers."""

    def run(*asked, **environment):
        settings = {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_TOKEN": "",
            "HF_HUB_ETAG_TIMEOUT": "2",
        }
        code = CHILD.format(asked=json.dumps(asked))
        lines = python(code, **{**settings, **environment}).splitlines()
        assert len(lines) == len(asked)
        return [json.loads(line) for line in lines]

    return run


def wanted(directory):
    return {
        path.name
        for path in directory.iterdir()
        if path.suffix in (".safetensors", ".json", ".txt", ".jinja")
    }


def tokens_sent(hub):
    """With requests about repositories; the client also asks for things that need none."""
    return {token for _, path, token in hub.requests if "someone/" in path}


def test_only_weights_and_text_are_fetched_once_and_then_work_offline(hub, load):
    files = wanted(hub.repositories["someone/model"])
    [answer] = load(("someone/model", {}))
    assert set(answer["files"]) == files == hub.fetched()
    hub.requests.clear()
    [answer] = load(("someone/model", {}))
    assert set(answer["files"]) == files and hub.fetched() == set()
    hub.requests.clear()
    answers = load(
        ("someone/model", {"local_files_only": True}), ("someone/other", {"local_files_only": True})
    )
    assert set(answers[0]["files"]) == files and "not whole in the cache" in answers[1]["refused"]
    [answer] = load(("someone/model", {}), HF_HUB_OFFLINE="1")
    assert set(answer["files"]) == files and hub.requests == []
    [answer] = load(("someone/model", {}), HF_ENDPOINT="http://127.0.0.1:9")
    assert set(answer["files"]) == files  # the network is down, and the cache has it


def test_revisions(hub, load):
    answers = load(("someone/model", {"revision": COMMIT}), ("someone/model", {"revision": "v9"}))
    assert "model.safetensors" in answers[0]["files"]
    assert "no revision 'v9'" in answers[1]["refused"]


def test_tokens(hub, load):
    hub.repositories |= dict.fromkeys(("someone/private", "someone/gated"), hub.repositories["someone/model"])
    hub.private, hub.gated = {"someone/private"}, {"someone/gated"}
    answers = load(("someone/private", {}), ("someone/gated", {}))
    assert "if it is private" in answers[0]["refused"] and "is gated" in answers[1]["refused"]
    assert tokens_sent(hub) == {None}
    hub.requests.clear()
    answers = load(("someone/private", {"token": "secret"}), ("someone/gated", {"token": "secret"}))
    assert all("model.safetensors" in answer["files"] for answer in answers)
    assert tokens_sent(hub) == {"secret"}
    hub.requests.clear()
    load(("someone/model", {}), HF_TOKEN="from the environment")
    assert tokens_sent(hub) == {"from the environment"}


def test_what_cannot_be_read_is_refused_before_the_weights_are_fetched(hub, load, tmp_path):
    sound = hub.repositories["someone/model"]
    for name in ("pickled", "unknown", "nothing", "bare"):
        (tmp_path / name).mkdir()
        hub.repositories[f"someone/{name}"] = tmp_path / name
    for name in ("pickled", "unknown"):
        shutil.copy(sound / "config.json", tmp_path / name)
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"weights")
    for name in ("unknown", "bare"):
        shutil.copy(sound / "model.safetensors", tmp_path / name)
    (tmp_path / "unknown" / "config.json").write_text('{"model_type": "gtp2"}')
    names = ("pickled", "unknown", "nothing", "bare", "absent")
    answers = load(*((f"someone/{name}", {}) for name in names))
    words = (
        "save_pretrained",
        "did you mean 'gpt2'?",
        "no .safetensors",
        "no config.json",
        "neither a directory",
    )
    for answer, word in zip(answers, words, strict=True):
        assert word in answer["refused"] and "\n" not in answer["refused"]
    assert "'someone/pickled' has its weights only as pytorch_model.bin" in answers[0]["refused"]
    assert hub.fetched() == {"config.json"}


def test_a_download_that_breaks_off_goes_on(hub, load):
    hub.breaks_off["model.safetensors"] = 1000
    answers = load(("someone/model", {}), ("someone/model", {}))
    assert "model.safetensors" in answers[-1]["files"]
    ranges = [
        path for method, path, _ in hub.requests if method == "GET" and path.endswith("model.safetensors")
    ]
    assert len(ranges) == 2


def test_no_network_is_one_line(load):
    [answer] = load(("someone/model", {}), HF_ENDPOINT="http://127.0.0.1:9")
    assert "could not be reached" in answer["refused"]


def test_sharded_repositories(hub, load, model_directory, tmp_path):
    model = tfgpt.CausalLM.from_pretrained(model_directory)
    model.save_pretrained(tmp_path / "sharded", max_shard_size=40_000)
    hub.repositories["someone/sharded"] = tmp_path / "sharded"
    [answer] = load(("someone/sharded", {}))
    assert set(answer["files"]) == {path.name for path in (tmp_path / "sharded").iterdir()}
