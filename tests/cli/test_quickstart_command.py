"""The quickstart from end to end, tiny: what it shows, that it goes on, that signals leave nothing wrong."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfgpt.cli import main

LIMIT = 900  # seconds: ends a test that hangs; a loaded machine may take its time
ROOT = Path(__file__).resolve().parents[2]
BUDGET = """
model: {num_layers: 1, num_heads: 1, hidden_dim: 8}
data: {vocabulary_size: 300, context_length: 32}
optimizer: {learning_rate: 3e-3}
schedule: {warmup_steps: 1}
training: {steps: 4, batch_size: 2, validate_every: 2, checkpoint_every: 2, jit: false}
tensorboard: {write_every: 2, sample_tokens: 2, attention_layers: 1}
"""
# As the console script, with another recipe; and as at a terminal: where the tests run in the background of a
# script, Ctrl-C is ignored by whatever they start.
SCRIPT = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from tfgpt.cli import main
import tfgpt.quickstart.job as job
job.BUDGETS = pathlib.Path("budgets")
sys.exit(main())
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current directory with a corpus and a budget of a few steps."""
    words = ["the", "quick", "brown", "fox", "écriture", "日本", "jumps", "over"]
    draw = random.Random(0)
    (tmp_path / "corpus").mkdir()
    for number in range(5):
        lines = [" ".join(draw.choices(words, k=8)) for _ in range(30)]
        (tmp_path / "corpus" / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "budgets").mkdir()
    (tmp_path / "budgets/small.yaml").write_text(BUDGET)
    monkeypatch.setattr("tfgpt.quickstart.job.BUDGETS", tmp_path / "budgets")
    monkeypatch.setattr("tfgpt.quickstart.job.NEW_TOKENS", 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leftovers(directory):
    return [path for path in directory.rglob(".*") if path.name.endswith((".part", ".old"))]


def logged(directory):
    """The tags of everything in the TensorBoard files below a directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = {path.parent for path in Path(directory).rglob("events.out.tfevents.*")}
    tags = EventAccumulator(str(folder)).Reload().Tags()
    return {*tags["tensors"], *tags["images"], *tags["scalars"]}


def start(*arguments, **environment):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_from_text_to_completions_and_again(place, capsys):
    assert main(["quickstart", "--corpus", "corpus", "--output", "my out"]) == 0
    shown = capsys.readouterr()
    for part in (
        "some minutes",
        "1/4",
        "2/4",
        "3/4",
        "4/4",
        "LZMA",
        "of 4,096 greedy tokens",
        "'my out/export'",
    ):
        assert part in shown.out
    lines = shown.out.split("4/4")[0].splitlines()
    assert max(map(len, lines)) <= 80 and not any("|---" in line for line in lines)
    assert "reading the text" in shown.err and "oneDNN" not in shown.err
    results = json.loads(Path("my out/results.json").read_text(encoding="utf-8"))
    weights = Path("my out/train/model/model.safetensors").stat().st_mtime_ns
    exported = Path("my out/export/SHA256SUMS").stat().st_mtime_ns
    assert {
        "train/loss",
        "train/perplexity",
        "train/learning_rate",
        "train/gradient_norm",
        "train/tokens_per_second",
        "validation/loss",
        "validation/perplexity",
        "sample",
        "attention/layer_0",
        "_hparams_/session_start_info",
    } <= logged("my out/train")

    # The same command, with the output within the corpus this time: nothing is done twice, JSON alone.
    assert main(["quickstart", "--corpus", "corpus", "--output", "my out", "--json"]) == 0
    shown = capsys.readouterr()
    again = json.loads(shown.out)
    assert {**again, "seconds": 0} | {"training": 0} == {**results, "seconds": 0} | {"training": 0}
    assert again["training"]["validation"] == results["training"]["validation"]
    assert weights == Path("my out/train/model/model.safetensors").stat().st_mtime_ns
    assert exported == Path("my out/export/SHA256SUMS").stat().st_mtime_ns
    assert not leftovers(place)

    # Another text in the same output is refused, and so is a second job at once.
    Path("corpus/more.txt").write_text("something else entirely\n" * 30)
    assert main(["quickstart", "--corpus", "corpus", "--output", "my out"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("tfgpt: found ")
    from tfgpt.locks import working_in

    with working_in("my out"):
        assert main(["quickstart", "--corpus", "corpus", "--output", "my out"]) == 2
    assert "another tfgpt at work" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (None, b"", "missing"),
        ("a.txt", b"", "no text"),
        ("a.txt", b"\0\1\2", "1 binary"),
        ("a.txt.gz", gzip.compress(b"some text\n" * 99)[:-20], "1 broken archive"),
        ("a.md", b"text", "no .txt, .jsonl file"),
    ],
    ids=["missing", "empty", "binary", "broken", "other"],
)
def test_unusable_text_is_one_line(place, capsys, name, content, words):
    if name is not None:
        Path("text").mkdir()
        Path("text", name).write_bytes(content)
    assert main(["quickstart", "--corpus", "text" if name else "missing", "--output", "out"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("tfgpt: ") and words in error[-1]
    assert not Path("out/train/model").exists() and not Path("out/export").exists()


@pytest.mark.parametrize("output", ["corpus/0.txt", "corpus/0.txt/x"])
def test_an_output_that_is_a_file(place, capsys, output):
    assert main(["quickstart", "--corpus", "corpus", "--output", output]) == 2
    assert capsys.readouterr().err.startswith("tfgpt: ")


def test_other_backends_are_refused_in_one_line(place):
    pytest.importorskip("jax")
    process = start("quickstart", "--corpus", "corpus", KERAS_BACKEND="jax")
    _, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    assert error.decode().splitlines()[-1].startswith("tfgpt: found Keras on jax, expected TensorFlow")


@pytest.mark.slow
def test_interrupted_by_the_keyboard(place):
    """SIGINT in the middle of training: one line, 130; then the same command ends well, and quietly."""
    process = start("quickstart", "--corpus", "corpus", "--output", "out")
    while process.poll() is None and not Path("out/train/data/report.json").exists():
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert error.decode().splitlines()[-1].startswith("tfgpt: interrupted")
    assert not leftovers(place)
    # Now with an encoding that lacks the bars, and nobody who reads past the first line.
    process = start("quickstart", "--corpus", "corpus", "--output", "out", PYTHONIOENCODING="ascii")
    output, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, error.decode()
    assert b"####" in output and b"Done: " in output
    assert b"oneDNN" not in error and b"absl" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    "reached",
    [
        "train/data/tokenizer",
        "train/checkpoints/step-00000002",
        "train/metrics.json",
        ".export.*.part",
        "export",
    ],
)
def test_killed_at_any_stage(place, reached):
    """SIGKILL when a file appears; the same command then gives what an undisturbed one gives."""
    process = start("quickstart", "--corpus", "corpus", "--output", "out", "--json")
    while process.poll() is None and not list(Path("out").glob(reached)):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    outputs = []
    for directory in ("out", "undisturbed"):
        process = start("quickstart", "--corpus", "corpus", "--output", directory, "--json")
        output, error = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, error.decode()
        outputs.append(json.loads(output))
        # TensorFlow numbers the functions that it saves by all that were traced before.
        outputs[-1]["verification"]["sizes"].pop("saved_model")
    for name in ("baselines", "verification", "completions", "data"):
        assert outputs[0][name] == outputs[1][name]
    loss = [each["training"]["validation"]["loss"] for each in outputs]
    assert loss[0] == pytest.approx(loss[1], rel=1e-6)
    assert not leftovers(place)


def test_a_reader_that_leaves_is_no_error(place):
    """`tfgpt quickstart | head -1` ends early, and without a traceback."""
    with start("quickstart", "--corpus", "corpus") as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 141
    assert error == b""
