"""Time and memory of loading GPT-2 1558m from safetensors: tfgpt (Keras) and transformers (PyTorch).

Goal of the project's numbers: at most 1.5 times the time of transformers, at most 1.0 times its memory.

Command:  python benchmarks/peers.py make tfgpt torch
          python benchmarks/load_speed.py [--size gpt2-1558m] [--written-by safetensors|tfgpt]
                                          [--backend tensorflow|jax] [--output benchmarks/results/NAME.json]
Setting:  tfgpt on TensorFlow in an environment of its own (TensorFlow imports JAX where it is), or on JAX in
          this one. Random fp32 weights in shards of 2 GB (random_sizes.py), in the page cache, as safetensors
          writes them or as `tfgpt convert` does: with tensors at multiples of 64 bytes, which both backends
          can use where they are, where they must copy others. Each measurement is a fresh process. Loaded
          means: `from_pretrained` has returned, and one token has gone through the model, so that pages which
          are only mapped count on both sides. The time is from after the imports to the logits of that token;
          the imports are reported apart, and both together. Memory is the peak resident set of the whole
          process, imports included, as the kernel counts it; "beyond the imports" is what the model added. GB
          is 10^9 bytes.
          Under a hypervisor that backs memory when it is first touched, that first touch takes ten times as
          long as the rest of loading. So a process beside holds as much touched memory as the weights need,
          and 2 GB more, and gives it back when the measured one has done its imports; that moment is no part
          of the time. A third side copies every tensor that is not aligned, two at a time, and does nothing
          else: what any framework must spend at least that cannot compute where the file put the numbers.
Hardware: any CPU; disk and memory for the weights (6.2 GB of each). Time: about 5 minutes on 2 cores.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import peers
import random_sizes

PACKAGES = ("tfgpt", "tensorflow", "keras", "safetensors")
TFGPT, TRANSFORMERS, COPY = SIDES = ("tfgpt", "transformers", "copying alone")
# Holds memory until the file IMPORTED is there, and renames it when the memory is given back.
HOLD = """
import os, sys, time
held = bytearray(int(sys.argv[1]))
held[::4096] = held[::4096].replace(b"\\0", b"\\1")
print("held", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
del held
os.rename(sys.argv[2], sys.argv[3])
"""
IMPORTED, FREED = "imported", "freed"
LONGEST_WAIT = 60  # seconds


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Clock:
    """Of a child: seconds by part, and the memory that the imports had taken."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def ends(self, part: str) -> None:
        """What was done since the last part, or the start, is called so."""
        self._seconds[part] = time.perf_counter() - self._last
        self._last = time.perf_counter()

    def imports_end(self) -> None:
        """Ends the imports, and waits until the memory held beside is free."""
        self.ends("import")
        self._imported_bytes = peak_bytes()
        (self._folder / IMPORTED).touch()
        deadline = time.perf_counter() + LONGEST_WAIT
        while not (self._folder / FREED).exists():
            if time.perf_counter() > deadline:
                raise SystemExit("the process that holds memory beside has not given it back")
            time.sleep(0.01)
        self._last = time.perf_counter()

    def write(self, answer: Path) -> None:
        """For the parent."""
        answer.write_text(json.dumps({"seconds": self._seconds, "imported_bytes": self._imported_bytes}))


def load_with_tfgpt(model_dir: Path, backend: str, clock: Clock) -> None:
    """Keras on one of its backends."""
    os.environ["KERAS_BACKEND"] = backend
    import numpy as np

    import tfgpt

    model_class = tfgpt.CausalLM  # the import behind the lazy name
    clock.imports_end()
    model = model_class.from_pretrained(model_dir)
    clock.ends("load")
    np.asarray(model(np.array([[1]])))
    clock.ends("token")


def load_with_transformers(model_dir: Path, _, clock: Clock) -> None:
    """PyTorch, with the dtype of the file."""
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(measure.THREADS)
    clock.imports_end()
    model = GPT2LMHeadModel.from_pretrained(model_dir, dtype="auto")
    clock.ends("load")
    with torch.no_grad():
        model(torch.tensor([[1]])).logits.numpy()
    clock.ends("token")


def copy_alone(model_dir: Path, _, clock: Clock) -> None:
    """No model: every tensor from the mapped file, in memory that begins at a multiple of 64 bytes."""
    from concurrent.futures import ThreadPoolExecutor

    from tfgpt.checkpoints.arrays import laid_out
    from tfgpt.checkpoints.readers import TensorReader

    clock.imports_end()
    reader = TensorReader(model_dir)
    with ThreadPoolExecutor(measure.THREADS) as pool:
        held = list(pool.map(lambda name: laid_out(reader.read(name), reader.dtype(name)), reader.names()))
    clock.ends("load")
    del held  # only now


LOADERS = {TFGPT: load_with_tfgpt, TRANSFORMERS: load_with_transformers, COPY: copy_alone}


def run_side(side: str, model_dir: Path, memory_bytes: int, backend: str) -> dict:
    """One fresh process: its seconds by part and its peak memory."""
    environment = {TRANSFORMERS: "torch", TFGPT: "tfgpt" if backend == "tensorflow" else None}.get(side)
    interpreter = str(peers.python(environment) if environment else sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        files = [str(Path(folder) / name) for name in (IMPORTED, FREED)]
        hold = [sys.executable, "-c", HOLD, str(memory_bytes), *files]
        with subprocess.Popen(hold, stdout=subprocess.PIPE) as holder:
            try:
                if holder.stdout.readline() != b"held\n":
                    raise SystemExit(f"found no memory to hold beside, expected {memory_bytes} bytes free")
                what = ["--side", side, str(model_dir), str(answer), "--backend", backend]
                cost = measure.child_cost([interpreter, __file__, *what])
            finally:
                holder.kill()
        parts = json.loads(answer.read_text())
    seconds = parts["seconds"]
    return {
        "value": sum(seconds.values()) - seconds["import"],
        "peak_gigabytes": cost.peak_bytes / 1e9,
        "added_gigabytes": (cost.peak_bytes - parts["imported_bytes"]) / 1e9,
        "all_seconds": sum(seconds.values()),
        **{f"{name}_seconds": found for name, found in seconds.items()},
    }


def convert(model_dir: Path, target: Path) -> Path:
    """The same weights as tfgpt writes them, in place of those that were there."""
    command = [sys.executable, "-m", "tfgpt", "convert", str(model_dir), str(target)]
    measure.child_cost([*command, "--max-shard-size", str(random_sizes.SHARD_BYTES)])
    shutil.rmtree(model_dir)
    return target


def rows_of(answers: dict[str, list[dict]]) -> dict[str, list[float]]:
    """{"side: what": numbers}."""
    names = {
        "value": "load and one token, s",
        "import_seconds": "imports, s",
        "all_seconds": "imports, load and one token, s",
        "peak_gigabytes": "peak GB",
        "added_gigabytes": "peak GB beyond the imports",
    }
    return {
        f"{side}: {spelled}": [answer[name] for answer in found]
        for name, spelled in names.items()
        for side, found in answers.items()
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=5)
    parser.add_argument("--size", default="gpt2-1558m", help="of random_sizes.py (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write the weights (default: a temporary one)")
    parser.add_argument("--written-by", choices=("safetensors", "tfgpt"), default="safetensors")
    parser.add_argument("--backend", choices=("tensorflow", "jax"), default="tensorflow")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "MODEL", "ANSWER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        side, model_dir, answer = options.side
        clock = Clock(Path(answer).parent)
        LOADERS[side](Path(model_dir), options.backend, clock)
        clock.write(Path(answer))
        return 0

    with tempfile.TemporaryDirectory(prefix="tfgpt-load-", dir=options.folder) as temporary:
        model_dir = random_sizes.write(Path(temporary) / "weights", options.size)
        if options.written_by == "tfgpt":
            model_dir = convert(model_dir, Path(temporary) / "converted")
        memory_bytes = random_sizes.num_bytes(options.size, "float32")[0] + 2 * 10**9
        measurements = {
            side: lambda side=side: run_side(side, model_dir, memory_bytes, options.backend) for side in SIDES
        }
        measure.interleave(measurements, repetitions=1)  # the files come into the page cache
        answers = measure.interleave(measurements, options.repetitions)
    rows = rows_of(answers)
    goals = (
        ("load and one token, s", 1.5),
        ("imports, load and one token, s", 1.5),
        ("peak GB", 1.0),
        ("peak GB beyond the imports", 1.0),
    )
    targets = [
        measure.Target(
            f"tfgpt / transformers, {what}",
            measure.ratio(rows[f"{TFGPT}: {what}"], rows[f"{TRANSFORMERS}: {what}"]),
            limit,
            at_least=False,
        )
        for what, limit in goals
    ]
    facts = {"versions": measure.versions(PACKAGES), "disturbance": measure.disturbance(answers)}
    title = f"loading {options.size} in fp32 on {options.backend}, written by {options.written_by}"
    measure.report(title, "as each row says", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
