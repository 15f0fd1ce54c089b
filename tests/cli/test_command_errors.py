"""Whatever a user gets wrong is one line on standard error and exit code 2, and nothing is lost or left."""

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest

from tfgpt.cli import main
from tfgpt.errors import InputError
from tfgpt.tokenizers.byte_pair import BytePairTokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model with a tokenizer, its export, and a corpus; read only."""
    import tfgpt

    folder = tmp_path_factory.mktemp("made")
    (folder / "corpus").mkdir()
    for number in range(4):
        text = "".join(f"line {number} {index}: to be, or not to be\n" for index in range(60))
        (folder / "corpus" / f"{number}.txt").write_text(text)
    tokenizer = BytePairTokenizer.train(["to be, or not to be"] * 9, vocabulary_size=270)
    config = tfgpt.ModelConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        context_length=32,
        num_layers=1,
        num_heads=1,
        hidden_dim=8,
        eos_token_id=tokenizer.end_of_text_id,
    )
    tfgpt.CausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    arguments = ["--precision", "fp32", "--no-saved-model", "--no-verify"]
    assert main(["export", str(folder / "model"), "--output", str(folder / "export"), *arguments]) == 0
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A directory with copies of what was made, to work in and to damage."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Runs a command that must be refused with one line, exit code 2, and nothing on standard output."""

    def run(*arguments, code=2):
        capsys.readouterr()
        assert main([str(each) for each in arguments]) == code
        shown = capsys.readouterr()
        lines = [line for line in shown.err.splitlines() if not line.startswith(("export: ", "step "))]
        assert shown.out == ""
        assert lines[-1].startswith("tfgpt: ") and "Traceback" not in shown.err, shown.err
        return lines[-1]

    return run


TRAIN = """
model: {num_layers: 1, num_heads: 1, hidden_dim: 8}
data: {corpus: corpus, vocabulary_size: 270, context_length: 16}
schedule: {warmup_steps: 1}
training: {steps: 2, batch_size: 2, validate_every: 2, checkpoint_every: 2, jit: false}
tensorboard: {enabled: false}
output: out
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["bake"], "'bake'"),
        (["train"], "CONFIG.yaml"),
        (["quickstart", "--budget", "huge"], "'huge'"),
        (["generate", "export"], "PROMPT"),
        (["generate", "export", "x", "--max-new-tokens", "many"], "'many'"),
        (["generate", "export", "x", "--max-new-tokens=0"], "max_new_tokens=0"),
        (["generate", "export", "x", "--max-new-tokens=-1"], "max_new_tokens=-1"),
        (["generate", "export", "x", "--temperature=-1"], "temperature=-1"),
        (["generate", "export", "x", "--temperature=nan"], "temperature=nan"),
        (["generate", "export", "x", "--temperature=1e300"], "temperature=1e+300"),
        (["generate", "export", "x", "--top-p=0"], "top_p=0"),
        (["generate", "export", "x", "--top-p=2"], "top_p=2"),
        (["generate", "export", "x", "--seed=-1"], "seed=-1"),
        (["generate", "export", "x", "--threads=0"], "0 threads"),
        (["generate", "export", "x", "--threads=100000"], "100000 threads"),
        (["generate", "export", "x", "--precision=fp64"], "'fp64'"),
        (["generate", "export", "x", "--precision=int8"], "found fp32"),
        (["generate", "model", "x", "--precision=fp32"], "--precision"),
        (["generate", "export", "to be " * 99], "context holds 32"),
        (["generate", "model", "to be " * 99], "context holds 32"),
        (["generate", "nowhere", "x"], "nowhere"),
        (["generate", "corpus/0.txt", "x"], "not a directory"),
        (["generate", "corpus", "x"], "no tokenizer"),
        (["export", "nowhere", "--output", "new"], "nowhere/config.json is missing"),
        (["export", "corpus/0.txt", "--output", "new"], "is a file"),
        (["export", "model", "--output", "new", "--precision", "fp64"], "'fp64'"),
        (["export", "model", "--output", "model"], "holds the model itself"),
        (["export", "model", "--output", "."], "holds the model itself"),
        (["export", "model", "--output", "corpus"], "found 0.txt"),
        (["export", "model", "--output", "corpus/0.txt"], "is a file"),
        (["export", "model", "--output", "corpus/0.txt/new"], "0.txt"),
        (["convert", "nowhere/at/all", "new"], "nowhere/at/all"),
        (["convert", "corpus/0.txt", "new"], "is a file"),
        (["convert", "model", "corpus"], "found 0.txt in corpus, expected a new or empty"),
        (["convert", "model", "model"], "the source itself"),
        (["convert", "model", "new", "--max-shard-size=0"], "max_shard_size=0"),
        (["convert", "model", "new", "--revision=main"], "no revision 'main'"),
        (["convert", "model", "n" * 300], "File name too long"),
        (["train", "recipe.yaml", "--set", "model.num_layers=1000000000"], "expected at most 10000"),
        (["evaluate", "model"], "no --corpus"),
        (["evaluate", "model", "--corpus", "nowhere"], "nowhere"),
        (["evaluate", "model", "--corpus", "corpus", "--context-length=64"], "context of 32"),
        (["evaluate", "recipe.yaml"], "no model yet"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "corpus/0.txt"], "0.txt"),
        (["train", "recipe.yaml", "--set", "training.stepz=1"], "did you mean 'steps'"),
        (["train", "recipe.yaml", "--set", "training"], "key.path=value"),
        (["train", "recipe.yaml", "--set", "training.micro_batches=3"], "multiple"),
        (["train", "recipe.yaml", "--set", "data.corpus=nowhere"], "nowhere"),
        (["train", "recipe.yaml", "--set", "output=corpus/0.txt"], "is a file"),
        (["train", "recipe.yaml", "--set", "model.hidden_dim=7", "--set", "model.num_heads=2"], "7"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_wrong_arguments(place, refused, arguments, words):
    (place / "recipe.yaml").write_text(TRAIN)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert words in refused(*arguments)
    after = {path: path.read_bytes() for path in before}
    assert after == before
    assert not (place / "new").exists() and not list(place.rglob("*.part"))


@pytest.mark.parametrize("name", ["model", "export"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"model": 3}', b'{"model": {"type": "BPE"}}'], ids=repr
)
def test_a_damaged_tokenizer(place, refused, name, content):
    (place / name / "tokenizer.json").write_bytes(content)
    assert "tokenizer" in refused("generate", name, "to be")
    if name == "model":
        assert "model/tokenizer.json" in refused("export", name, "--output", "new")
        assert "tokenizer" in refused("evaluate", name, "--corpus", "corpus")


@pytest.mark.parametrize("name", ["model", "export"])
def test_the_tokenizer_of_another_model(place, refused, name):
    path = place / name / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["another"] = max(values["model"]["vocab"].values()) + 1
    path.write_text(json.dumps(values))
    commands = [("generate", name, "to be")]
    if name == "model":
        commands += [("export", name, "--output", "new"), ("evaluate", name, "--corpus", "corpus")]
    for command in commands:
        assert "expected at most the" in refused(*command)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("onnx/engine.onnx", b""),
        ("onnx/engine.onnx", b"\x08\x07garbage"),
        ("onnx/model.onnx", None),
        ("config.json", None),
        ("config.json", b"[1]"),
        ("generation_config.json", b"{"),
        ("generation_config.json", b'{"eos_token_id": "x"}'),
        ("tokenizer.json", None),
    ],
    ids=str,
)
def test_a_damaged_export(place, refused, file, content):
    path = place / "export" / file
    path.unlink() if content is None else path.write_bytes(content)
    assert "export" in refused("generate", "export", "to be")


def test_the_shortest_stated_context_of_an_export_counts(place, refused):
    path = place / "export/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n_positions": 100_000, "n_ctx": None}))
    assert "context holds 32" in refused("generate", "export", "to be " * 99)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "no text"),
        ("a.txt", b" \n\t", "no text"),
        ("a.txt", b"\0\1\2", "1 binary"),
        ("a.txt", b"\xff\xfe\xfd", "1 not UTF-8"),
        ("a.txt.gz", b"no gzip", "1 broken archive"),
        ("a.jsonl", b'{"text": "a"}\n{bro', "a.jsonl line 2"),
        ("a.jsonl", b'["a"]', 'no "text"'),
        ("a.jsonl", b"[" * 100_000, "nested too deeply"),
        ("a.md", b"text", "no .txt, .jsonl file"),
        ("a.txt", b"x", "only 1 characters"),
        ("a.txt", b"short\ntext\n" * 3, "context_length + 1"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_unusable_text(place, refused, name, content, words):
    (place / "text").mkdir()
    (place / "text" / name).write_bytes(content)
    (place / "recipe.yaml").write_text(TRAIN)
    assert words in refused("train", "recipe.yaml", "--set", "data.corpus=text")
    assert not (place / "out/model").exists()


def test_somebody_elses_files_are_never_deleted(place, refused, capsys):
    """Directories that look like ours and are not."""
    thesis = place / "thesis"
    for name in ("onnx", "saved_model", "train", "tokenizer"):
        (thesis / name).mkdir(parents=True)
        (thesis / name / "chapter.txt").write_text("years of work")
    assert "which no export wrote" in refused("export", "model", "--output", "thesis")
    (place / "recipe.yaml").write_text(TRAIN)
    assert "found chapter.txt" in refused("train", "recipe.yaml", "--set", "data.cache_directory=thesis")
    (place / "export/notes.txt").write_text("mine")
    assert "found notes.txt" in refused("export", "model", "--output", "export")
    assert (place / "export/notes.txt").read_text() == "mine"
    assert len(list(thesis.rglob("chapter.txt"))) == 4

    import tfgpt

    (thesis / "adapter.safetensors").write_text("mine")
    tfgpt.CausalLM.from_pretrained("model").save_pretrained(thesis)
    assert (thesis / "adapter.safetensors").read_text() == "mine"
    assert len(list(thesis.rglob("chapter.txt"))) == 4
    assert not [name for name in os.listdir(place) if name.startswith(".")]


@pytest.mark.parametrize("arguments", [["train", "recipe.yaml"], ["quickstart", "--output", "new"]])
def test_training_commands_choose_the_passes_of_xla(place, refused, monkeypatch, arguments):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    seen = []

    def train(*arguments, **options):
        seen.append(os.environ.get("XLA_FLAGS"))
        raise InputError("enough")

    monkeypatch.setattr("tfgpt.training.fit.train", train)
    (place / "recipe.yaml").write_text(TRAIN)
    with contextlib.redirect_stdout(io.StringIO()):
        assert "enough" in refused(*arguments)
    assert seen == ["--xla_disable_hlo_passes=tree_reduction_rewriter"]


@pytest.mark.parametrize("name", ["metrics.json", "recipe.json", "results.json", "model"])
@pytest.mark.parametrize("command", [["train", "recipe.yaml"], ["quickstart", "--output", "out"]])
def test_training_overwrites_nobodys_results(place, refused, command, name):
    """An output that is not empty and no job's: refused, and as it was."""
    (place / "recipe.yaml").write_text(TRAIN)
    (place / "out").mkdir()
    (place / "out" / name).write_text('{"accuracy": 1}')
    assert f"found {name} in out" in refused(*command)
    assert {entry.name: entry.read_text() for entry in (place / "out").iterdir()} == {name: '{"accuracy": 1}'}


def test_a_jobs_own_output_is_gone_on_with_whatever_lies_beside(place, refused, capsys):
    (place / "recipe.yaml").write_text(TRAIN)
    assert main(["train", "recipe.yaml"]) == 0
    (place / "out/notes.txt").write_text("mine")
    assert main(["train", "recipe.yaml", "--set", "training.steps=3"]) == 0
    assert "going on at step 2 of 3" in capsys.readouterr().err
    assert (place / "out/notes.txt").read_text() == "mine"
    assert "schedule.warmup_steps" in refused("train", "recipe.yaml", "--set", "schedule.warmup_steps=0")


def test_home_is_expanded(place, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(place))
    assert main(["convert", "~/model", "~/copy"]) == 0
    assert main(["generate", "~/export", "to be", "--max-new-tokens=1"]) == 0
    assert (place / "copy/tokenizer.json").exists() and not (place / "~").exists()


def test_json_is_one_document_whatever_the_encoding(place, capsys, monkeypatch):
    assert main(["generate", "export", "é 日本", "to be", "--max-new-tokens=2", "--json"]) == 0
    assert [each["prompt"] for each in json.loads(capsys.readouterr().out)] == ["é 日本", "to be"]
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["generate", "export", "é 日本", "--max-new-tokens=2", "--json"]) == 0
    assert main(["generate", "export", "é 日本", "--max-new-tokens=2"]) == 0
    document, text = stream.buffer.getvalue().decode("ascii").split("\n", 1)
    assert json.loads(document)[0]["prompt"] == "é 日本"
    assert text.startswith("\\xe9 \\u65e5")


def test_failures_while_running_have_exit_code_1(place, refused, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "export/onnx/model.onnx")

    monkeypatch.setattr("tfgpt_export.stages.write_model", full)
    assert "No space left on device" in refused("export", "model", "--output", "new", code=1)
    assert sorted(os.listdir(place)) == ["corpus", "export", "model"]
    monkeypatch.setattr("tfgpt_export.stages.write_model", lambda *arguments: 1 / 0)
    message = refused("export", "model", "--output", "new", code=1)
    assert "ZeroDivisionError" in message and "TFGPT_TRACEBACK=1" in message
    monkeypatch.setenv("TFGPT_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["export", "model", "--output", "new"])


def test_an_error_within_a_layer_is_shown_without_kerass_frame(place, refused, monkeypatch):
    """Keras adds the layer's arguments and colours; a user reads the message."""
    import tfgpt_export

    import tfgpt

    def export(*arguments, **options):
        tfgpt.CausalLM.from_pretrained("model")(np.zeros((1, 33), "int32"))

    monkeypatch.setattr(tfgpt_export, "export", export)
    message = refused("export", "model", "--output", "new")
    assert message == (
        "tfgpt: found 33 tokens, expected at most the context of 32: shorten the text, or split it"
    )


def test_ctrl_c_is_heard_where_a_library_swallows_it(place, refused, monkeypatch):
    """In a finalizer, where Python ignores it, and under a library's bare `except`, which may go on."""

    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def lost(*arguments, **options):
        Finalized()
        time.sleep(20)

    def renamed(*arguments, **options):
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            raise TypeError("Cannot find maximum value") from None

    def ignored(*arguments, **options):
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            time.sleep(2)  # another import in place of the one that failed: the next is taken for cleaning up
        time.sleep(10)
        went_on.append(True)

    went_on = []
    # A shell's background job, which these tests may be part of, ignores the keyboard.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    hook = sys.unraisablehook
    try:
        for swallow in (lost, renamed, ignored):
            monkeypatch.setattr("tfgpt_export.export", swallow)
            assert "interrupted" in refused("export", "model", "--output", "new", code=130)
        assert not went_on
        assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == (signal.default_int_handler, hook)
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_cleaning_up_after_ctrl_c_is_not_interrupted(place, refused, monkeypatch):
    """Ctrl-C comes again where it was lost, and not to who is on the way out."""
    done = []

    def slow_to_end(*arguments, **options):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            time.sleep(2.5)
            done.append(True)

    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr("tfgpt_export.export", slow_to_end)
        assert "interrupted" in refused("export", "model", "--output", "new", code=130)
        assert done
    finally:
        signal.signal(signal.SIGINT, inherited)
