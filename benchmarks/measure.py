"""What every benchmark shares: sides in processes of their own, interleaving, medians, costs, the report.

Only the standard library, and no import of tfgpt at the top: the peers' environments run this file too.

A side is a child process that is started once, gets ready (imports, weights, compilation, warm-up) and then
measures once per line "run" on its standard input. The parent asks the sides in turn, A B A B, so that a
machine that slows down for a while slows down every side alike:

    parent                                   child (measure.serve)
      start                 ------------->   prepare()
                            <-------------   {"versions": {...}}
      "run"                 ------------->   measurement()
                            <-------------   {"value": 27.3, ...}
      end of file           ------------->   exit
"""

import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

THREADS = 2

# Every side gets the same number of threads, and none may reach for the network or a GPU.
CHILD_ENVIRONMENT = {
    "OMP_NUM_THREADS": str(THREADS),
    "TF_NUM_INTRAOP_THREADS": str(THREADS),
    "TF_NUM_INTEROP_THREADS": str(THREADS),
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

# OpenMP workers keep spinning for up to 0.2 s after their last work: let them end before the next side.
SETTLE_SECONDS = 0.4

# Above this share of cores that strangers keep busy, the numbers say more about them than about the sides.
LARGEST_DISTURBANCE = 0.1


@dataclass(frozen=True)
class Target:
    """One number of the project's goals: `found` must be at least, or at most, `limit`."""

    text: str
    found: float
    limit: float
    at_least: bool = True

    @property
    def reached(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit


@dataclass(frozen=True)
class Cost:
    """What a finished child process and its own children took, as the kernel counted it.

    cpu_seconds: user and system time. peak_bytes: the largest resident set of any one of them.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


class Side:
    """The parent's end of a side; see the module's drawing."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str] = MappingProxyType({})):
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the side
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **CHILD_ENVIRONMENT, **environment},
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def run(self) -> dict:
        """One measurement: the child's answer, with its number under "value"."""
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the child; may be called again."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._log.seek(0)
        last_words = self._log.read()[-3000:]
        self.close()
        raise SystemExit(f"the side {self.name!r} ended before it answered; its last words:\n{last_words}")


@contextlib.contextmanager
def started(
    commands: Mapping[str, list[str]], environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[dict[str, Side]]:
    """Starts a `Side` per command, one after the other, and ends them all on the way out.

    environment: variables of the sides beside, or instead of, those of CHILD_ENVIRONMENT.
    """
    with contextlib.ExitStack() as stack:
        sides = {}
        for name, command in commands.items():
            print(f"starting {name} ...", file=sys.stderr, flush=True)
            sides[name] = Side(name, command, environment)
            stack.callback(sides[name].close)
        yield sides


def side_by_side(
    commands: Mapping[str, list[str]], repetitions: int, environment: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[str, list[dict]], dict]:
    """Starts all sides and lets each answer in turn: ({side: its answers}, facts of them for `report`)."""
    with started(commands, environment) as sides:
        answers = interleave({name: side.run for name, side in sides.items()}, repetitions)
        versions_found = {name: side.versions for name, side in sides.items()}
    return answers, {"versions": versions_found, "disturbance": disturbance(answers)}


def serve(prepare: Callable[[], Callable[[], dict]], packages: Iterable[str]) -> int:
    """The child's end: gets ready by `prepare()`, which returns the measurement, then answers every "run"."""
    # Libraries print to standard output as they like; the answers get a channel that only they use.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    measurement = prepare()
    print(json.dumps({"versions": versions(packages)}), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "run":
            print(json.dumps(measurement()), file=answers, flush=True)
    return 0


def interleave(
    measurements: Mapping[str, Callable[[], dict]], repetitions: int, settle_seconds: float = SETTLE_SECONDS
) -> dict[str, list[dict]]:
    """Calls every measurement in turn, `repetitions` times round: {name: its answers in order}.

    Each answer gets a "disturbance": the share of the machine's cores that was busy in the pause before it,
    when all sides wait and only strangers can work.
    """
    answers = {name: [] for name in measurements}
    for repetition in range(repetitions):
        for name, measurement in measurements.items():
            before = _core_seconds()
            time.sleep(settle_seconds)
            disturbance = busy_share(before, _core_seconds())
            answers[name].append({**measurement(), "disturbance": disturbance})
            value = answers[name][-1]["value"]
            print(
                f"  round {repetition + 1}/{repetitions}  {name:28} {value:10.3f}",
                file=sys.stderr,
                flush=True,
            )
    return answers


def busy_share(before: tuple[float, float], after: tuple[float, float]) -> float:
    """Share of all core time between two readings of (all, idle) core time that was not idle, 0 to 1."""
    elapsed, idle = after[0] - before[0], after[1] - before[1]
    return 1.0 - idle / elapsed if elapsed > 0 else 0.0


def disturbance(answers: Mapping[str, list[dict]]) -> float:
    """Median share of the cores that strangers took between the measurements; says so when it matters."""
    found = round(statistics.median(row["disturbance"] for rows in answers.values() for row in rows), 3)
    if found > LARGEST_DISTURBANCE:
        print(f"WARNING: other processes took {found:.0%} of the cores meanwhile: try again when it is quiet")
    return found


def values(answers: Mapping[str, list[dict]]) -> dict[str, list[float]]:
    """The numbers alone out of what `interleave` returned."""
    return {name: [answer["value"] for answer in rows] for name, rows in answers.items()}


def summary(numbers: list[float]) -> dict:
    """Median, minimum, maximum and the numbers themselves, in the order in which they were measured."""
    return {
        "median": statistics.median(numbers),
        "minimum": min(numbers),
        "maximum": max(numbers),
        "values": list(numbers),
    }


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over median."""
    return statistics.median(numerator) / statistics.median(denominator)


# Starts sys.argv[1:] with the standard streams it has and prints what the kernel counted for it.
_WAITER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr, stdin=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
wall = time.perf_counter() - start
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([process.returncode, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def child_cost(command: list[str]) -> Cost:
    """Runs `command` to its end and returns what it took. Raises SystemExit with its last words on failure.

    `os.wait4` gives the usage of this one child and of the children it waited for, which the running total
    of RUSAGE_CHILDREN would mix with every earlier child's. A small process stands between: the kernel
    counts the memory of whoever starts a process to that process's peak.
    """
    environment = {**os.environ, **CHILD_ENVIRONMENT}
    with tempfile.TemporaryFile("w+") as log:
        waiter = subprocess.run(
            [sys.executable, "-c", _WAITER, *command],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            check=True,
        )
        code, wall, cpu, peak = json.loads(waiter.stdout)
        if code != 0:
            log.seek(0)
            raise SystemExit(f"{command} ended with code {code}:\n{log.read()[-3000:]}")
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB on Linux
    return Cost(wall, cpu, peak * scale)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """{distribution: version} of those that are installed here, Python first."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def machine() -> dict:
    """Cores that this process may use, CPU model, memory and system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": cores,
        "cpu": _cpu_model(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
    }


def add_arguments(parser, repetitions: int) -> None:
    """The options that every benchmark has."""
    parser.add_argument(
        "--repetitions", type=int, default=repetitions, help="rounds A B A B (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="also write the result as JSON to this file")


def report(
    title: str, unit: str, rows: Mapping[str, list[float]], targets: list[Target], output=None, **facts
) -> dict:
    """Prints the table with one line per side and per target, and writes it as JSON when `output` is given.

    rows: {side: its numbers in `unit`}. facts: whatever else belongs in the JSON, such as versions.
    """
    result = {
        "benchmark": title,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine(),
        "unit": unit,
        "sides": {name: summary(numbers) for name, numbers in rows.items()},
        "targets": [{**asdict(target), "reached": target.reached} for target in targets],
        **facts,
    }
    print(f"\n{title}\n\n{'side':34}{'median':>10}{'min':>10}{'max':>10}  {unit}")
    for name, side in result["sides"].items():
        print(f"{name:34}{side['median']:10.3f}{side['minimum']:10.3f}{side['maximum']:10.3f}")
    print()
    for target in targets:
        word = "at least" if target.at_least else "at most"
        state = "reached" if target.reached else "MISSED"
        print(f"{target.text}: {target.found:.3f} (wanted {word} {target.limit:g}: {state})")
    if output:
        from tfgpt.files import write_json

        write_json(output, result)
    return result


def _core_seconds() -> tuple[float, float]:
    """(all, idle) core time since the machine started, in ticks; waiting for a disk counts as idle."""
    with contextlib.suppress(OSError):
        numbers = [float(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]
    return 0.0, 0.0  # no Linux: no disturbance is seen


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
