"""The benchmark scripts: each loads nothing heavy, and what it computes is right on numbers made by hand."""

import json
import math
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
# data_pipeline.py is checked by the data package's own tests.
SCRIPTS = (
    "batch",
    "decode",
    "export_cost",
    "export_memory",
    "gpu_training",
    "graph_tokenizer",
    "learning",
    "limits",
    "load_memory",
    "load_speed",
    "mixed",
    "peers",
    "prefill",
    "quantization",
    "startup",
    "tokenizer_speed",
    "training_speed",
)
HEAVY = ("tensorflow", "keras", "torch", "transformers", "onnxruntime", "tf2onnx")


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/ as the scripts themselves do, and forgets it afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_has_a_main_and_loads_nothing_heavy(name):
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import {name}\n"
        f"assert callable({name}.main)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_states_setting_and_command(name, benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark(name).main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"python benchmarks/{name}.py" in text
    if name != "peers":
        assert all(word in text for word in ("Goal", "Setting:", "Hardware:", "Time:", "--output"))


def test_statistics_on_numbers_made_by_hand(benchmark):
    measure = benchmark("measure")
    assert measure.summary([3.0, 1.0, 10.0]) == {
        "median": 3.0,
        "minimum": 1.0,
        "maximum": 10.0,
        "values": [3.0, 1.0, 10.0],
    }
    assert measure.summary([4.0, 1.0, 2.0, 100.0])["median"] == 3.0
    # Medians 6 and 4; means would give 8 / 4, one outlier deciding.
    assert measure.ratio([6.0, 4.0, 14.0], [4.0, 5.0, 3.0]) == 1.5


@pytest.mark.parametrize(
    ("at_least", "found", "reached"),
    [(True, 1.0, True), (True, 0.99, False), (False, 1.0, True), (False, 1.01, False)],
)
def test_target_is_reached_at_its_limit(benchmark, at_least, found, reached):
    assert benchmark("measure").Target("text", found, 1.0, at_least).reached is reached


def test_interleave_takes_turns_and_keeps_order(benchmark):
    measure = benchmark("measure")
    calls = []

    def side(name):
        calls.append(name)
        return {"value": float(len(calls))}

    sides = {"a": lambda: side("a"), "b": lambda: side("b")}
    answers = measure.interleave(sides, repetitions=3, settle_seconds=0.0)
    assert calls == ["a", "b"] * 3
    assert measure.values(answers) == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def test_busy_share_of_two_readings(benchmark):
    measure = benchmark("measure")
    # 2 cores for 10 seconds in hundredths: 2,000 ticks, 500 of them idle.
    assert measure.busy_share((7000.0, 1000.0), (9000.0, 1500.0)) == 0.75
    assert measure.busy_share((7000.0, 1000.0), (7000.0, 1000.0)) == 0.0


def test_busy_strangers_are_pointed_out(benchmark, capsys):
    measure = benchmark("measure")

    def answers(*shares):
        return {"a": [{"value": 1.0, "disturbance": share} for share in shares]}

    assert measure.disturbance(answers(0.0, 0.05, 0.9)) == 0.05
    assert capsys.readouterr().out == ""
    assert measure.disturbance(answers(0.0, 0.5, 0.9)) == 0.5
    assert "other processes took 50% of the cores" in capsys.readouterr().out


SERVED = """
import sys
sys.path.insert(0, {folder!r})
import measure

def prepare():
    print("libraries print as they like")
    numbers = iter([1.5, 2.5])
    return lambda: {{"value": next(numbers)}}

sys.exit(measure.serve(prepare, ["numpy"]))
"""


def test_side_answers_in_its_own_process(benchmark):
    measure = benchmark("measure")
    command = [sys.executable, "-c", SERVED.format(folder=str(BENCHMARKS))]
    with measure.started({"one": command}) as sides:
        assert sides["one"].versions["numpy"] == np.__version__
        assert [sides["one"].run()["value"] for _ in range(2)] == [1.5, 2.5]
        with pytest.raises(SystemExit, match=r"'one' ended before it answered(.|\n)*StopIteration"):
            sides["one"].run()


def test_sides_answer_in_turn_with_their_facts(benchmark):
    measure = benchmark("measure")
    command = [sys.executable, "-c", SERVED.format(folder=str(BENCHMARKS))]
    answers, facts = measure.side_by_side({"one": command, "two": command}, repetitions=2)
    assert measure.values(answers) == {"one": [1.5, 2.5], "two": [1.5, 2.5]}
    assert {name: found["numpy"] for name, found in facts["versions"].items()} == dict.fromkeys(
        ("one", "two"), np.__version__
    )
    assert 0 <= facts["disturbance"] <= 1


def test_side_that_cannot_start_says_why(benchmark):
    measure = benchmark("measure")
    with (
        pytest.raises(SystemExit, match=r"'broken' ended before it answered(.|\n)*no such peer"),
        measure.started({"broken": [sys.executable, "-c", "raise ValueError('no such peer')"]}),
    ):
        pass


def test_child_cost_counts_this_child_alone(benchmark):
    measure = benchmark("measure")
    burn = (
        "import time\nstart = time.process_time()\nwhile time.process_time() - start < 0.5: pass\n"
        "block = bytearray(200_000_000)\nblock[::4096] = bytes(len(block[::4096]))"
    )
    busy = measure.child_cost([sys.executable, "-c", burn])
    idle = measure.child_cost([sys.executable, "-c", "import time; time.sleep(0.3)"])
    assert 0.5 <= busy.cpu_seconds < 2.0
    assert busy.peak_bytes > 200_000_000
    # Neither time nor memory of the first child may show up in the second, nor sleeping count as work.
    assert idle.cpu_seconds < 0.25 <= idle.wall_seconds
    assert idle.peak_bytes < 100_000_000


def test_child_cost_counts_grandchildren(benchmark):
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    assert benchmark("measure").child_cost([sys.executable, "-c", nested]).cpu_seconds >= 0.5


def test_child_cost_reports_a_failure(benchmark):
    with pytest.raises(SystemExit, match=r"code 3(.|\n)*last words"):
        benchmark("measure").child_cost(
            [sys.executable, "-c", "import sys; print('last words'); sys.exit(3)"]
        )


def test_report_prints_and_writes(benchmark, tmp_path, capsys):
    measure = benchmark("measure")
    rows = {"ours": [2.0, 4.0, 3.0], "theirs": [2.0, 2.0, 2.0]}
    target = measure.Target("ours / theirs", measure.ratio(rows["ours"], rows["theirs"]), 1.25)
    measure.report("speed", "steps/s", rows, [target], tmp_path / "new" / "speed.json", steps=7)
    written = json.loads((tmp_path / "new" / "speed.json").read_text())
    assert written["sides"]["ours"]["median"] == 3.0
    assert written["targets"] == [
        {"text": "ours / theirs", "found": 1.5, "limit": 1.25, "at_least": True, "reached": True}
    ]
    assert written["steps"] == 7
    assert written["machine"]["cores"] >= 1 and written["machine"]["memory_gib"] > 0
    assert time.strptime(written["date"][:10], "%Y-%m-%d")
    assert "ours / theirs: 1.500 (wanted at least 1.25: reached)" in capsys.readouterr().out


def test_missing_peer_says_what_to_run(benchmark, monkeypatch, tmp_path):
    monkeypatch.setenv("TFGPT_PEERS", str(tmp_path))
    with pytest.raises(SystemExit, match=r"run `python benchmarks/peers\.py make optimum` first"):
        benchmark("peers").python("optimum")


def test_every_torch_is_the_pinned_one(benchmark):
    peers = benchmark("peers")
    for requirements in peers.ENVIRONMENTS.values():
        assert all("==" in each for each in requirements if each.startswith(("torch", "transformers")))


# --- the setting on tinyshakespeare ---


def test_learning_rate_at_its_corners(benchmark):
    shakespeare = benchmark("shakespeare")
    assert shakespeare.learning_rate(0) == pytest.approx(1e-3 / 101)
    assert shakespeare.learning_rate(99) == pytest.approx(1e-3 * 100 / 101)
    assert shakespeare.learning_rate(100) == pytest.approx(1e-3)
    assert shakespeare.learning_rate(1050) == pytest.approx(5.5e-4)  # half of the cosine
    assert shakespeare.learning_rate(2000) == pytest.approx(1e-4)


def test_keras_schedule_is_the_same_function(benchmark):
    shakespeare = benchmark("shakespeare")
    schedule = shakespeare.keras_learning_rate()
    for step in (0, 1, 50, 99, 100, 101, 700, 1999):
        assert float(schedule(step)) == pytest.approx(shakespeare.learning_rate(step), rel=1e-5)


def test_batches_are_windows_and_repeat(benchmark):
    shakespeare = benchmark("shakespeare")
    characters = np.arange(1000, dtype=np.int32)
    token_ids, labels = shakespeare.batches(characters, count=3, seed=5)
    assert token_ids.shape == labels.shape == (3, 12, 64)
    np.testing.assert_array_equal(labels, token_ids + 1)
    np.testing.assert_array_equal(np.diff(token_ids, axis=-1), 1)
    np.testing.assert_array_equal(token_ids, shakespeare.batches(characters, count=3, seed=5)[0])
    assert not np.array_equal(token_ids, shakespeare.batches(characters, count=3, seed=6)[0])


def test_uniform_predictions_cost_the_logarithm_of_the_vocabulary(benchmark):
    shakespeare = benchmark("shakespeare")
    characters = np.random.default_rng(0).integers(0, 65, 10_000).astype(np.int32)

    def predict(token_ids):
        return np.full((*token_ids.shape, 65), 7.0, np.float32)

    assert shakespeare.whole_validation_loss(predict, characters) == pytest.approx(math.log(65))
    assert shakespeare.sampled_validation_loss(predict, characters) == pytest.approx(math.log(65))


def test_whole_loss_counts_every_character_once(benchmark):
    """The loss of a model that knows every answer except at one character is that character's share."""
    shakespeare = benchmark("shakespeare")
    characters = np.arange(1000, dtype=np.int32)
    expensive = 999  # the last one, in the window that is filled up

    def predict(token_ids):
        logits = np.zeros((*token_ids.shape, 1000), np.float32)
        answers = np.minimum(token_ids + 1, 999)
        np.put_along_axis(logits, answers[..., None], 100.0, -1)
        logits[answers == expensive] = 0.0
        # What stands in the padding must not count.
        logits[token_ids == 0] = np.where(np.arange(1000) == 1, 100.0, 0.0)
        return logits

    loss = shakespeare.whole_validation_loss(predict, characters)
    assert loss == pytest.approx(math.log(1000) / 999, rel=1e-6)


def test_corpus_is_split_as_nanogpt_does(benchmark):
    shakespeare = benchmark("shakespeare")
    try:
        corpus = shakespeare.load()
    except SystemExit as missing:
        pytest.skip(str(missing))
    # nanoGPT, data/shakespeare_char/prepare.py: "train has 1,003,854 tokens", "val has 111,540 tokens".
    assert (len(corpus.train), len(corpus.validation)) == (1_003_854, 111_540)
    assert len(corpus.vocabulary) == 65
    assert corpus.vocabulary.startswith("\n !$&',-.3:;?ABC") and corpus.vocabulary.endswith("xyz")


# --- decoding ---


def test_random_gpt2_has_the_published_number_of_parameters(benchmark):
    shapes = benchmark("random_gpt2").tensor_shapes()
    assert sum(math.prod(shape) for shape in shapes.values()) == 124_439_808


def test_differing_greedy_tokens_stop_the_benchmark(benchmark, capsys):
    decode = benchmark("decode")
    same = [{"token_ids": [1, 2]}, {"token_ids": [1, 2]}]
    decode.check_tokens({"a fp32": same, "b fp32": same, "a int8": [{"token_ids": [3, 4]}]})
    assert "2 fp32 sides agree" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"b fp32"):
        decode.check_tokens({"a fp32": same, "b fp32": [{"token_ids": [1, 2]}, {"token_ids": [1, 3]}]})


def test_export_rows_subtract_the_import_of_the_same_round(benchmark):
    def cost(cpu_seconds, wall_seconds=1.0, peak_gigabytes=0.5):
        return {"value": cpu_seconds, "wall_seconds": wall_seconds, "peak_gigabytes": peak_gigabytes}

    rows = benchmark("export_cost").rows_of(
        {
            "import": [cost(2.0), cost(4.0), cost(3.0)],
            "tfgpt": [cost(5.0), cost(9.0), cost(7.0, 6.0, 1.7)],
            "stock": [cost(284.0, 271.0, 20.9)],
        }
    )
    assert rows["tfgpt: CPU s beyond import"] == [3.0, 5.0, 4.0]
    assert statistics.median(rows["tfgpt: peak GB"]) == 0.5
    assert rows["stock: CPU s beyond import"] == [282.0]


def test_limits_counts_products_and_attention_of_the_last_runs(benchmark):
    limits = benchmark("limits")

    def event(name, start, duration, operator=None):
        return {"name": name, "ts": start, "dur": duration, "args": {"op_name": operator}}

    events = [
        event("session_initialization", 0, 5),
        event("a_kernel_time", 11, 1000, "MatMul"),
        event("model_run", 10, 1020),
        event("model_run", 2000, 100),
        event("a_kernel_time", 2001, 30, "MatMul"),
        event("b_kernel_time", 2040, 20, "GroupQueryAttention"),
        event("c_kernel_time", 2070, 10, "Add"),
        event("b_fence_before", 2039, 7, "GroupQueryAttention"),
        event("model_run", 3000, 100),
        event("a_kernel_time", 3001, 50, "MatMulNBits"),
    ]
    assert limits.counted_seconds(events, 2) == pytest.approx(100e-6)
    assert limits.counted_seconds(events, 3) == pytest.approx(1100e-6)
