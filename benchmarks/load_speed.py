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
          Before each measurement a process takes as much memory as the weights need and gives it back: under
          a hypervisor that backs memory when it is first touched, that first touch takes ten times as long as
          the rest of loading, and which side pays it would be chance.
Hardware: any CPU; disk and memory for the weights (6.2 GB of each). Time: about 3 minutes on 2 cores.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import measure
import peers
import random_sizes

PACKAGES = ("tfgpt", "tensorflow", "keras", "safetensors")
SIDES = ("tfgpt", "transformers")
TOUCH = "import sys; held = bytearray(int(sys.argv[1])); held[::4096] = held[::4096].replace(b'\\0', b'\\1')"


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parts_of(start: float, imported: float, loaded: float, imported_bytes: int) -> dict:
    """What a child answers after its token: seconds by part, and the memory that the imports had taken."""
    token = time.perf_counter() - loaded
    seconds = {"import": imported - start, "load": loaded - imported, "token": token}
    return {"seconds": seconds, "imported_bytes": imported_bytes}


def load_with_tfgpt(model_dir: Path, backend: str) -> dict:
    """Keras on one of its backends."""
    os.environ["KERAS_BACKEND"] = backend
    start = time.perf_counter()
    import numpy as np

    import tfgpt

    model_class = tfgpt.CausalLM  # the import behind the lazy name
    imported, imported_bytes = time.perf_counter(), peak_bytes()
    model = model_class.from_pretrained(model_dir)
    loaded = time.perf_counter()
    np.asarray(model(np.array([[1]])))
    return parts_of(start, imported, loaded, imported_bytes)


def load_with_transformers(model_dir: Path, _) -> dict:
    """PyTorch, with the dtype of the file."""
    start = time.perf_counter()
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(measure.THREADS)
    imported, imported_bytes = time.perf_counter(), peak_bytes()
    model = GPT2LMHeadModel.from_pretrained(model_dir, dtype="auto")
    loaded = time.perf_counter()
    with torch.no_grad():
        model(torch.tensor([[1]])).logits.numpy()
    return parts_of(start, imported, loaded, imported_bytes)


def run_side(side: str, model_dir: Path, memory_bytes: int, backend: str) -> dict:
    """One fresh process: its seconds by part and its peak memory."""
    measure.child_cost([sys.executable, "-c", TOUCH, str(memory_bytes)])
    own = sys.executable if backend == "jax" else peers.python("tfgpt")
    interpreter = str(own if side == "tfgpt" else peers.python("torch"))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        what = ["--side", side, str(model_dir), str(answer), "--backend", backend]
        cost = measure.child_cost([interpreter, __file__, *what])
        parts = json.loads(answer.read_text())
    seconds = parts["seconds"]
    return {
        "value": seconds["load"] + seconds["token"],
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
        load = {"tfgpt": load_with_tfgpt, "transformers": load_with_transformers}[side]
        Path(answer).write_text(json.dumps(load(Path(model_dir), options.backend)))
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
            measure.ratio(rows[f"tfgpt: {what}"], rows[f"transformers: {what}"]),
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
