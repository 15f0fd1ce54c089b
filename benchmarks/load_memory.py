"""Peak memory of loading a large bf16 checkpoint, against the bound that streaming promises.

Goal of the project's numbers: at most the weights in the target dtype, the largest two tensors and 1 GB of
runtime, on a GPT-J-6b-shaped checkpoint in bf16 (12 GB) on a machine of 24 GB.

Command:  python benchmarks/load_memory.py [--size gptj-6b] [--dtype bfloat16]
          [--output benchmarks/results/NAME.json]
Setting:  random bf16 weights in shards of 2 GB (random_sizes.py). Each measurement is a fresh process that
          loads the directory and runs one token; memory is its peak resident set, imports included, as the
          kernel counts it. GB is 10^9 bytes.
Hardware: any CPU; 12 GB of disk, and 16 GB of free memory. Time: about 3 minutes on 2 cores.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import measure
import random_sizes

PACKAGES = ("tfgpt", "tensorflow", "keras", "safetensors")
RUNTIME_GIGABYTES = 1.0
STORED = "bfloat16"


def load(model_dir: Path, dtype: str) -> None:
    """The child: loads, and runs one token."""
    import numpy as np

    import tfgpt

    model = tfgpt.CausalLM.from_pretrained(model_dir, dtype=dtype)
    model(np.array([[1]]))


def bound_gigabytes(size: str, dtype: str) -> float:
    """Weights as they become, the two largest tensors as they are stored, and the runtime."""
    weights, _ = random_sizes.num_bytes(size, dtype)
    _, largest = random_sizes.num_bytes(size, STORED)
    return (weights + largest) / 1e9 + RUNTIME_GIGABYTES


def run(model_dir: Path, dtype: str) -> dict:
    """One fresh process: its wall seconds, imports included, and its peak memory."""
    cost = measure.child_cost([sys.executable, __file__, "--load", str(model_dir), dtype])
    return {"value": cost.peak_bytes / 1e9, "wall_seconds": cost.wall_seconds}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=1)
    parser.add_argument("--size", default="gptj-6b", help="of random_sizes.py (default: %(default)s)")
    parser.add_argument("--dtype", default=STORED, help="what the weights become (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write the weights (default: a temporary one)")
    parser.add_argument("--load", nargs=2, metavar=("MODEL", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.load:
        load(Path(options.load[0]), options.load[1])
        return 0

    with tempfile.TemporaryDirectory(prefix="tfgpt-load-", dir=options.folder) as temporary:
        model_dir = random_sizes.write(Path(temporary) / "weights", options.size, STORED)
        answers = measure.interleave({"tfgpt": lambda: run(model_dir, options.dtype)}, options.repetitions)
    rows = {
        "peak GB": [answer["value"] for answer in answers["tfgpt"]],
        "wall s, imports included": [answer["wall_seconds"] for answer in answers["tfgpt"]],
    }
    peak, bound = statistics.median(rows["peak GB"]), bound_gigabytes(options.size, options.dtype)
    targets = [measure.Target("peak memory in GB", peak, bound, at_least=False)]
    facts = {"versions": measure.versions(PACKAGES), "disturbance": measure.disturbance(answers)}
    title = f"loading {options.size} ({STORED} -> {options.dtype})"
    measure.report(title, "as each row says", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
