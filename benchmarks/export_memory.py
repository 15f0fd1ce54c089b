"""Peak memory of exporting large checkpoints: it must not grow with the model.

Goals of the project's numbers: GPT-2 1558m from safetensors to fp32 ONNX peaks under 3 GB; a GPT-J-6b-shaped
bf16 checkpoint (12 GB) to int4 under 6 GB.

Command:  python benchmarks/export_memory.py [--case gpt2-1558m:float32:fp32 gptj-6b:bfloat16:int4]
          [--folder DIR] [--output benchmarks/results/NAME.json]
Setting:  random weights in shards of 2 GB (random_sizes.py), a model directory without tokenizer. Each
          measurement is a fresh process that exports with verification off (Keras's own model would be in
          memory otherwise) and without SavedModel; memory is its peak resident set, imports included, as the
          kernel counts it. Afterwards onnxruntime opens the file and answers one token, in a process of its
          own: tensors beyond 2 GB in the data file are found. GB is 10^9 bytes.
Hardware: any CPU; twice the disk of the largest checkpoint. Time: about 10 minutes on 2 cores.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import measure
import random_sizes

PACKAGES = ("tfgpt", "tensorflow", "keras", "onnx", "onnxruntime")
CASES = ("gpt2-1558m:float32:fp32", "gptj-6b:bfloat16:int4")
LIMITS = {"gpt2-1558m:float32:fp32": 3.0, "gptj-6b:bfloat16:int4": 6.0}


def export(model_dir: Path, output: Path, precision: str) -> None:
    """The child that is measured."""
    import tfgpt_export

    tfgpt_export.export(model_dir, output, (precision,), verify=False, saved_model=False)


def answer(output: Path, precision: str) -> None:
    """The child that opens the result: logits of one token, all of them numbers."""
    import numpy as np

    from tfgpt.serving import Session

    decoder = Session.open(output, precision=precision, engine=False).decoder
    logits = decoder.prefill(np.array([[1]]), np.ones((1, 1), np.int64), 1)
    if not (np.isfinite(logits).all() and np.ptp(logits) > 0):
        raise SystemExit(f"found logits {logits}, expected different numbers")


def run(model_dir: Path, output: Path, precision: str) -> dict:
    """One export in a fresh process, and one answer of what it wrote."""
    command = [sys.executable, __file__, "--child"]
    cost = measure.child_cost([*command, "export", str(model_dir), str(output), precision])
    measure.child_cost([*command, "answer", str(model_dir), str(output), precision])
    written = sum(path.stat().st_size for path in (output / "onnx").iterdir())
    return {
        "peak GB": cost.peak_bytes / 1e9,
        "CPU s": cost.cpu_seconds,
        "wall s": cost.wall_seconds,
        "file GB": written / 1e9,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=1)
    parser.add_argument("--case", nargs="+", default=CASES, metavar="SIZE:DTYPE:PRECISION")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--child", nargs=4, metavar=("WHAT", "MODEL", "OUTPUT", "PRECISION"))
    options = parser.parse_args(arguments)
    if options.child:
        what, model_dir, output, precision = options.child
        if what == "export":
            export(Path(model_dir), Path(output), precision)
        else:
            answer(Path(output), precision)
        return 0
    rows: dict[str, list[float]] = {}
    targets = []
    for case in options.case:
        size, dtype, precision = case.split(":")
        with tempfile.TemporaryDirectory(prefix="tfgpt-export-", dir=options.folder) as temporary:
            model_dir = random_sizes.write(Path(temporary) / "weights", size, dtype)
            for _ in range(options.repetitions):
                for what, number in run(model_dir, Path(temporary) / "export", precision).items():
                    rows.setdefault(f"{case} {what}", []).append(number)
        if case in LIMITS:
            peak = max(rows[f"{case} peak GB"])
            targets.append(measure.Target(f"{case}: peak GB", peak, LIMITS[case], at_least=False))
    facts = {"versions": measure.versions(PACKAGES)}
    measure.report("memory of the export", "as each row says", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
