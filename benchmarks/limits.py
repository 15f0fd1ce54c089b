"""What onnxruntime's own kernels leave room for, where tfgpt misses a goal against CTranslate2.

A prompt of 512 tokens in int8 (goal: 1.2 times CTranslate2's int8), and eight rows that decode (1.6 times its
fp32, 2.2 times its int8). Each of tfgpt's graphs gives its speed, and the speed that it would have if all but
its products and attention took no time: where even that is short of the goal, no other graph of the same
operators reaches it on this machine. int8 decodes in blocks or, in a session for many rows, in whole numbers.

Command:  python benchmarks/peers.py make ctranslate2
          python benchmarks/limits.py [--output benchmarks/results/NAME.json]
Setting:  as prefill.py and batch.py, whose sides CTranslate2's are. tfgpt's graphs run by themselves, without
          what a session does around them, once for their speed and once under onnxruntime's profiler, whose
          times of the single operators are summed: MatMul, MatMulNBits, MatMulIntegerToFloat and
          GroupQueryAttention.
Hardware: any CPU; about 3 GB of disk for the converted models (--folder keeps them for the next run).
Time:     about 4 minutes on 2 cores, without the conversions.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import decode
import measure

PROMPT, ROWS, CONTEXT, STEPS = 512, 8, 64, 20
COUNTED = ("MatMul", "MatMulNBits", "MatMulIntegerToFloat", "GroupQueryAttention")
# A side of tfgpt: its graph, and whether it reads a prompt or decodes.
GRAPHS = {
    "tfgpt int8, 512 tokens": ("prompts_quantized.onnx", True),
    "tfgpt fp32, 8x64": ("engine.onnx", False),
    "tfgpt int8 in blocks, 8x64": ("engine_quantized.onnx", False),
    "tfgpt int8 in whole numbers, 8x64": ("prompts_quantized.onnx", False),
}
PEERS = {
    "ctranslate2 int8, 512 tokens": "ctranslate2 int8",
    "ctranslate2 fp32, 8x64": "ctranslate2 fp32",
    "ctranslate2 int8, 8x64": "ctranslate2 int8",
}
GOALS = (
    ("tfgpt int8, 512 tokens", "ctranslate2 int8, 512 tokens", 1.2),
    ("tfgpt fp32, 8x64", "ctranslate2 fp32, 8x64", 1.6),
    ("tfgpt int8 in blocks, 8x64", "ctranslate2 int8, 8x64", 2.2),
    ("tfgpt int8 in whole numbers, 8x64", "ctranslate2 int8, 8x64", 2.2),
)
ALONE = ", products and attention alone"


def prepare_tfgpt(folder: Path, side: str):
    """The measurement of one graph: {"value": tokens per second, "alone": of the counted operators}."""
    import onnxruntime
    import random_gpt2

    from tfgpt.serving.engine import LARGEST_CHUNK
    from tfgpt.serving.engine_graph import EngineCache, Feed, load_engine_graph

    name, reads = GRAPHS[side]
    path = folder / "tfgpt" / "onnx" / name
    plain = load_engine_graph(path, measure.THREADS)

    def profiled(prefix: str):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = measure.THREADS
        options.enable_mem_pattern = False
        options.enable_profiling = True
        options.profile_file_prefix = prefix
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def runs_of(graph) -> list[tuple[int, float]]:
        """(tokens, seconds) of each run that counts; the first ones warm up."""
        cache, found = EngineCache(graph), []
        cache.reserve(1 if reads else ROWS, PROMPT + LARGEST_CHUNK)

        def run(feeds):
            start = time.perf_counter()
            cache.run(feeds)
            return sum(len(feed.token_ids) for feed in feeds), time.perf_counter() - start

        if reads:
            prompt = random_gpt2.prompt(PROMPT)
            starts = range(0, PROMPT, LARGEST_CHUNK)
            chunks = [Feed(0, each, prompt[each : each + LARGEST_CHUNK], 0) for each in starts]
            chunks[-1] = dataclasses.replace(chunks[-1], wanted=1)
            for repetition in range(3):
                found += [run([chunk]) for chunk in chunks] if repetition else map(run, [chunks[:1]])
            return found[1:]
        for row in range(ROWS):
            run([Feed(row, 0, random_gpt2.prompt(CONTEXT, row), 1)])
        for step in range(STEPS):
            found.append(run([Feed(row, CONTEXT + step, [step], 1) for row in range(ROWS)]))
        return found

    def measurement() -> dict:
        found = runs_of(plain)
        with tempfile.TemporaryDirectory() as temporary:
            session = profiled(f"{temporary}/run")
            told = runs_of(dataclasses.replace(plain, session=session))
            events = json.loads(Path(session.end_profiling()).read_text())
        return {"value": _rate(found), "alone": sum(count for count, _ in told) / _seconds(events, len(told))}

    runs_of(plain)
    return measurement


def _rate(found: list[tuple[int, float]]) -> float:
    return sum(count for count, _ in found) / sum(seconds for _, seconds in found)


def _seconds(events: list[dict], num_runs: int) -> float:
    """Of the counted operators in the last runs."""
    since = [event["ts"] for event in events if event["name"] == "model_run"][-num_runs]
    return 1e-6 * sum(
        event["dur"]
        for event in events
        if event["name"].endswith("_kernel_time")
        and event["ts"] >= since
        and event["args"]["op_name"] in COUNTED
    )


def command_of(side: str, folder: Path) -> list[str]:
    """Starts a side in its environment; CTranslate2's are those of the other benchmarks."""
    if side in GRAPHS:
        return [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    script = "prefill.py" if "tokens" in side else "batch.py"
    command = decode.command_of(PEERS[side], folder, "--side", str(Path(__file__).with_name(script)))
    return command if "tokens" in side else [*command, "--cases", "8x64"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=7)
    parser.add_argument("--folder", type=Path, help="keep weights and converted models here")
    parser.add_argument("--side", choices=GRAPHS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        return measure.serve(lambda: prepare_tfgpt(options.folder, options.side), decode.PACKAGES)

    with tempfile.TemporaryDirectory(prefix="tfgpt-limits-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        decode.prepare_folder(folder, ("tfgpt fp32", "tfgpt int8", *PEERS.values()))
        commands = {side: command_of(side, folder) for side in (*GRAPHS, *PEERS)}
        answers, facts = measure.side_by_side(commands, options.repetitions)
    rows = {}
    for name, found in answers.items():
        rates = [each["rates"] for each in found] if name in PEERS else []
        key = "512" if "tokens" in name else "8x64"
        rows[name] = [each[key] for each in rates] or [each["value"] for each in found]
        if name in GRAPHS:
            rows[name + ALONE] = [each["alone"] for each in found]
    targets = [
        measure.Target(f"{ours}{what} / {peer}", measure.ratio(rows[ours + what], rows[peer]), limit)
        for ours, peer, limit in GOALS
        for what in ("", ALONE)
    ]
    facts["setting"] = {"threads": measure.THREADS, "counted": COUNTED}
    measure.report("what the kernels leave room for", "tokens/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
