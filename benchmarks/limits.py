"""What onnxruntime's own kernels leave room for, where tfgpt misses a goal against CTranslate2.

Goals 2 and 3 of the project's numbers for one export, in the cases that are missed: a prompt of 512 tokens in
int8, and eight rows that decode. Each of tfgpt's graphs gives its speed, and as a bound the speed that it
would have if all but its products and attention took no time: where even that is short of the goal, no other
graph of the same operators reaches it on this machine. int8 decodes in blocks or, in a session for many rows,
in whole numbers.

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
from collections.abc import Callable
from pathlib import Path

import batch
import decode
import measure
import prefill

PROMPT, ROWS, CONTEXT, STEPS = 512, 8, 64, 20
PROMPTS_READ = 3  # the first of them warms up
COUNTED = ("MatMul", "MatMulNBits", "MatMulIntegerToFloat", "GroupQueryAttention")
# A side of tfgpt: its graph, and the peer that its goal is measured by.
GRAPHS = {
    "tfgpt int8, 512 tokens": ("prompts_quantized.onnx", "ctranslate2 int8, 512 tokens"),
    "tfgpt fp32, 8x64": ("engine.onnx", "ctranslate2 fp32, 8x64"),
    "tfgpt int8 blocks, 8x64": ("engine_quantized.onnx", "ctranslate2 int8, 8x64"),
    "tfgpt int8 whole, 8x64": ("prompts_quantized.onnx", "ctranslate2 int8, 8x64"),
}
PEERS = {
    "ctranslate2 int8, 512 tokens": ("ctranslate2 int8", prefill.LIMIT),
    **{f"{peer}, 8x64": (peer, limit) for _, peer, limit in batch.GOALS},
}
BOUND = ", bound"
Run = Callable[[list], tuple[int, float]]  # runs feeds: new tokens, and the seconds they took


def read_prompts(run: Run) -> list[tuple[int, float]]:
    """Prompts in the engine's chunks, one after the other in the same row; the first is not returned."""
    import random_gpt2

    from tfgpt.serving.engine import LARGEST_CHUNK
    from tfgpt.serving.engine_graph import Feed

    prompt = random_gpt2.prompt(PROMPT)
    starts = range(0, PROMPT, LARGEST_CHUNK)
    chunks = [Feed(0, each, prompt[each : each + LARGEST_CHUNK], int(each == starts[-1])) for each in starts]
    found = [run([chunk]) for _ in range(PROMPTS_READ) for chunk in chunks]
    return found[len(chunks) :]


def decode_rows(run: Run) -> list[tuple[int, float]]:
    """Steps of all rows, behind prompts; the first step is not returned."""
    import random_gpt2

    from tfgpt.serving.engine_graph import Feed

    for row in range(ROWS):
        run([Feed(row, 0, random_gpt2.prompt(CONTEXT, row), 1)])
    steps = [[Feed(row, CONTEXT + step, [step], 1) for row in range(ROWS)] for step in range(STEPS + 1)]
    return [run(feeds) for feeds in steps][1:]


def runs_of(graph, reads: bool) -> list[tuple[int, float]]:
    """What `read_prompts` or `decode_rows` measures of one graph, in a cache with room for all of it."""
    from tfgpt.serving.engine_graph import EngineCache

    cache = EngineCache(graph)
    cache.reserve(1 if reads else ROWS, PROMPT if reads else CONTEXT + STEPS + 1)

    def run(feeds) -> tuple[int, float]:
        start = time.perf_counter()
        cache.run(feeds)
        return sum(len(feed.token_ids) for feed in feeds), time.perf_counter() - start

    return (read_prompts if reads else decode_rows)(run)


def prepare_tfgpt(folder: Path, side: str):
    """The measurement of one graph: {"value": tokens per second, "bound": of the counted operators alone}."""
    from tfgpt.serving.engine_graph import load_engine_graph

    path, reads = folder / "tfgpt" / "onnx" / GRAPHS[side][0], "tokens" in side
    plain = load_engine_graph(path, measure.THREADS)

    def measurement() -> dict:
        found = runs_of(plain, reads)
        with tempfile.TemporaryDirectory() as temporary:
            session = profiled_session(path, f"{temporary}/run")
            told = runs_of(dataclasses.replace(plain, session=session), reads)
            events = json.loads(Path(session.end_profiling()).read_text())
        tokens = sum(count for count, _ in told)
        rate = sum(count for count, _ in found) / sum(seconds for _, seconds in found)
        return {"value": rate, "bound": tokens / counted_seconds(events, len(told))}

    runs_of(plain, reads)
    return measurement


def profiled_session(path: Path, prefix: str):
    """The graph in a session that notes when each operator ran."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = measure.THREADS
    options.enable_mem_pattern = False
    options.enable_profiling = True
    options.profile_file_prefix = prefix
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def counted_seconds(events: list[dict], num_runs: int) -> float:
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
    command = decode.command_of(PEERS[side][0], folder, "--side", str(Path(__file__).with_name(script)))
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
        peers = [name for name, _ in PEERS.values()]
        decode.prepare_folder(folder, ("tfgpt fp32", "tfgpt int8", *peers))
        commands = {side: command_of(side, folder) for side in (*GRAPHS, *PEERS)}
        answers, facts = measure.side_by_side(commands, options.repetitions)
    rows = {}
    for name, found in answers.items():
        if name in GRAPHS:
            rows[name] = [each["value"] for each in found]
            rows[name + BOUND] = [each["bound"] for each in found]
        else:
            key = "512" if "tokens" in name else "8x64"
            rows[name] = [each["rates"][key] for each in found]
    targets = [
        measure.Target(f"{ours}{kind} / {peer}", measure.ratio(rows[ours + kind], rows[peer]), PEERS[peer][1])
        for ours, (_, peer) in GRAPHS.items()
        for kind in ("", BOUND)
    ]
    facts["setting"] = {"threads": measure.THREADS, "counted": COUNTED}
    measure.report("what the kernels leave room for", "tokens/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
