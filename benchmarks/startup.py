"""How long the command line takes to start: `tfgpt --help`, and the first token from a cold process.

Goal 5 of the project's numbers: `tfgpt --help` under 0.3 s; the first token of `tfgpt generate EXPORT_DIR`
for the quickstart's model under 1.5 s. For GPT-2 124m in int4 (--export-dir of `decode.py --folder`): the
first token within 1.0 s, and resident memory at most 1.3 times the precision's files. That is told of a
session that has made a token, and of the command's peak. The bound is what the imports alone take, and the
files once: a program that imports the same and has its weights in memory takes no less.

Command:  tfgpt quickstart --output runs/quickstart          # makes the export directory
          python benchmarks/startup.py [--export-dir EXPORT_DIR] [--output benchmarks/results/NAME.json]
Setting:  wall time of whole processes, from start to exit: the first token is measured as
          `tfgpt generate EXPORT_DIR "def " --max-new-tokens 1`, so loading, prefill and printing all count.
          Beside them, in turn, an interpreter that does nothing and one that imports TensorFlow: the floor,
          and what a command line over TensorFlow cannot get below. Files are in the page cache after the
          first round, which is not counted.
Hardware: any CPU, Linux for the memory of a session. Time: about a minute on 2 cores.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measure

PACKAGES = ("tfgpt", "onnxruntime", "tokenizers", "tensorflow")
PROMPT = "def "
FIRST_TOKEN = "tfgpt generate, 1 token"
HELP = "tfgpt --help"
IMPORTS = "import numpy, onnxruntime, tokenizers"
SERVING = "python, what serving imports"
ONE_SESSION = "python, a session, 1 token"
# Ends with the resident bytes of a session that has made a token.
SESSION = f"""
import sys
from pathlib import Path
from tfgpt.generation.options import GenerationOptions
from tfgpt.serving import Session
session = Session.open(sys.argv[1], precision=sys.argv[2])
session.generate({PROMPT!r}, GenerationOptions(max_new_tokens=1))
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")))
"""


def tfgpt_command() -> str:
    """The console script of the environment that runs this file."""
    beside = Path(sys.executable).with_name("tfgpt")
    found = str(beside) if beside.exists() else shutil.which("tfgpt")
    if not found:
        raise SystemExit("found no command tfgpt, expected it installed, run `pip install -e .` first")
    return found


def commands_of(export_dir: Path | None, precision: str | None) -> dict[str, list[str]]:
    tfgpt = tfgpt_command()
    commands = {
        "python, nothing": [sys.executable, "-c", "pass"],
        "python, import tensorflow": [sys.executable, "-c", "import tensorflow"],
        HELP: [tfgpt, "--help"],
    }
    if export_dir is not None:
        commands[SERVING] = [sys.executable, "-c", IMPORTS]
        commands[FIRST_TOKEN] = [tfgpt, "generate", str(export_dir), PROMPT, "--max-new-tokens", "1"]
        if precision:
            commands[FIRST_TOKEN] += ["--precision", precision]
    return commands


def _cost(command: list[str]) -> dict:
    cost = measure.child_cost(command)
    return {"value": cost.wall_seconds, "peak_bytes": cost.peak_bytes}


def _session_cost(export_dir: Path, precision: str) -> dict:
    """A process with a session that makes a token, and what is resident then."""
    start = time.perf_counter()
    environment = {**os.environ, **measure.CHILD_ENVIRONMENT}
    command = [sys.executable, "-c", SESSION, str(export_dir), precision]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"a session ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    return {"value": time.perf_counter() - start, "resident_bytes": int(done.stdout)}


def _first_precision(export_dir: Path | None) -> str | None:
    """That `tfgpt generate` takes where none is asked for."""
    from tfgpt.serving.export_directory import precisions_in

    return next(iter(precisions_in(export_dir)), None) if export_dir else None


def _memory_targets(answers: dict, export_dir: Path, precision: str) -> list[measure.Target]:
    """Resident memory of a session, and the peak of the command, by the bytes of the graph and its data."""
    from tfgpt.serving.export_directory import ENGINE_OF_PRECISION

    graph = export_dir / "onnx" / ENGINE_OF_PRECISION[precision]
    data = graph.with_name(graph.name.replace("engine", "model", 1) + "_data")
    size = sum(path.stat().st_size for path in (graph, data) if path.is_file())

    def median(side: str, key: str) -> float:
        return statistics.median(answer[key] for answer in answers[side])

    found = {"the command's peak": median(FIRST_TOKEN, "peak_bytes")}
    if ONE_SESSION in answers:
        found["a session after one token"] = median(ONE_SESSION, "resident_bytes")
    found["bound, the imports and the files once"] = median(SERVING, "peak_bytes") + size
    files = f"files {size / 1e6:.0f} MB"
    return [
        measure.Target(f"memory: {name}, {each / 1e6:.0f} MB / {files}", each / size, 1.3, at_least=False)
        for name, each in found.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=10)
    parser.add_argument("--export-dir", type=Path, help="what `tfgpt export` or the quickstart wrote")
    parser.add_argument("--precision", help="of the graph to generate with (default: the command's own)")
    options = parser.parse_args(arguments)

    commands = commands_of(options.export_dir, options.precision)
    measurements = {name: lambda command=command: _cost(command) for name, command in commands.items()}
    precision = options.precision or _first_precision(options.export_dir)
    if options.export_dir and sys.platform == "linux":  # elsewhere nobody tells what is resident
        measurements[ONE_SESSION] = lambda: _session_cost(options.export_dir, precision)
    measure.interleave(measurements, repetitions=1)
    answers = measure.interleave(measurements, options.repetitions)
    rows = measure.values(answers)
    targets = [measure.Target(HELP, measure.summary(rows[HELP])["median"], 0.3, at_least=False)]
    if FIRST_TOKEN in rows:
        median = measure.summary(rows[FIRST_TOKEN])["median"]
        limit = 1.0 if options.precision == "int4" else 1.5
        targets.append(measure.Target(f"{FIRST_TOKEN}, cold process", median, limit, at_least=False))
        targets += _memory_targets(answers, options.export_dir, precision)
    facts = {"versions": measure.versions(PACKAGES), "disturbance": measure.disturbance(answers)}
    measure.report("startup", "s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
