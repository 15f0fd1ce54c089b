"""CPU time and memory of exporting GPT-2 124m to fp32 ONNX with a cache: tfgpt, Optimum, and stock tf2onnx.

Goals of the project's numbers: at most 8 CPU seconds beyond importing TensorFlow, a peak of at most 2.0 GB,
and at most half of the CPU seconds and of the peak of Optimum's exporter, each with its own imports.

Command:  python benchmarks/peers.py make optimum
          python benchmarks/export_cost.py [--with-optimum] [--with-stock]
          [--output benchmarks/results/NAME.json]
Setting:  a model directory with random weights (random_gpt2.py). Each measurement is a fresh process that
          does the whole job (read, trace, convert, lower, write), without verification and without
          SavedModel; CPU seconds (user and system, all threads) and the peak resident set are the kernel's
          own count for that process. Between them runs a process that only imports TensorFlow, and its CPU
          seconds are subtracted, round by round. GB is 10^9 bytes.
          --with-optimum adds optimum-onnx's `main_export` of the same directory, in its own environment and
          in the same rounds, also without verification.
          --with-stock adds `tf2onnx.convert.from_function` on the Keras model as it is, once: it needs 21 GB
          of memory and about 5 minutes, so it is left out otherwise.
Hardware: any CPU; 2 GB of disk. Time: about a minute on 2 cores, with Optimum about five.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import measure
import peers

PACKAGES = ("tfgpt", "tensorflow", "keras", "tf2onnx", "onnx")


def import_tensorflow(model_dir: Path, output: Path) -> None:
    """What every user of TensorFlow pays before anything else."""
    import tensorflow  # noqa: F401


def export_with_tfgpt(model_dir: Path, output: Path) -> None:
    """The export stage, without what only checks it."""
    import tfgpt_export

    tfgpt_export.export(model_dir, output, precisions=("fp32",), verify=False, saved_model=False)


def export_with_optimum(model_dir: Path, output: Path) -> None:
    """The exporter of Optimum, as its command line calls it; runs in its environment."""
    from optimum.exporters.onnx import main_export

    main_export(str(model_dir), output, task="text-generation-with-past", do_validation=False)


def export_with_tf2onnx(model_dir: Path, output: Path) -> None:
    """The converter alone, given the same function of the same model with its weights inside."""
    import tensorflow as tf
    import tf2onnx

    import tfgpt
    from tfgpt.layers.cache import GrowingCache

    model = tfgpt.CausalLM.from_pretrained(model_dir)
    config = model.config
    past = tf.TensorSpec((None, config.num_heads, None, config.hidden_dim // config.num_heads), tf.float32)
    token_ids = tf.TensorSpec((None, None), tf.int64)
    specs = [token_ids] * 3 + [past] * (2 * config.num_layers)

    @tf.function(input_signature=specs, autograph=False)
    def step(token_ids, mask, positions, *pasts):
        cache = GrowingCache(pasts[0::2], pasts[1::2])
        logits, present = model(token_ids, positions=positions, mask=mask, cache=cache)
        return [logits, *present.keys, *present.values]

    tf2onnx.convert.from_function(
        step, input_signature=specs, opset=18, output_path=str(output / "model.onnx")
    )


ACTIONS = {
    "import": import_tensorflow,
    "tfgpt": export_with_tfgpt,
    "optimum": export_with_optimum,
    "stock": export_with_tf2onnx,
}


def run_side(side: str, model_dir: Path) -> dict:
    """Runs one side in a fresh process; its files are thrown away."""
    interpreter = peers.python("optimum") if side == "optimum" else sys.executable
    with tempfile.TemporaryDirectory(prefix="tfgpt-export-", dir=model_dir.parent) as output:
        cost = measure.child_cost([str(interpreter), __file__, "--side", side, str(model_dir), output])
    return {
        "value": cost.cpu_seconds,
        "wall_seconds": cost.wall_seconds,
        "peak_gigabytes": cost.peak_bytes / 1e9,
    }


def rows_of(answers: dict[str, list[dict]]) -> dict[str, list[float]]:
    """{"side: what": numbers}, with the CPU seconds beyond those of the import in the same round."""
    rows = {}
    imports = [answer["value"] for answer in answers["import"]]
    rows["import tensorflow: CPU s"] = imports
    for side, found in answers.items():
        if side == "import":
            continue
        # The stock side runs once, whatever the number of rounds.
        paired = zip(found, imports, strict=False)
        rows[f"{side}: CPU s"] = [answer["value"] for answer in found]
        if side != "optimum":  # which imports no TensorFlow
            rows[f"{side}: CPU s beyond import"] = [answer["value"] - base for answer, base in paired]
        rows[f"{side}: wall s"] = [answer["wall_seconds"] for answer in found]
        rows[f"{side}: peak GB"] = [answer["peak_gigabytes"] for answer in found]
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=5)
    parser.add_argument(
        "--with-stock", action="store_true", help="also run tf2onnx as it is: 21 GB, 5 minutes"
    )
    parser.add_argument("--with-optimum", action="store_true", help="also run Optimum's exporter: 5 minutes")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "MODEL", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        side, model_dir, output = options.side
        ACTIONS[side](Path(model_dir), Path(output))
        return 0

    import random_gpt2

    if options.with_optimum:
        peers.python("optimum")  # ends here where it is not there
    with tempfile.TemporaryDirectory(prefix="tfgpt-export-cost-") as temporary:
        model_dir = random_gpt2.write(Path(temporary) / "weights")
        sides = ("import", "tfgpt", *(("optimum",) if options.with_optimum else ()))
        measurements = {side: lambda side=side: run_side(side, model_dir) for side in sides}
        answers = measure.interleave(measurements, options.repetitions)
        if options.with_stock:
            answers |= measure.interleave({"stock": lambda: run_side("stock", model_dir)}, repetitions=1)
    rows = rows_of(answers)
    cpu, peak = (statistics.median(rows[f"tfgpt: {what}"]) for what in ("CPU s beyond import", "peak GB"))
    targets = [
        measure.Target("tfgpt's CPU seconds beyond importing TensorFlow", cpu, 8.0, at_least=False),
        measure.Target("tfgpt's peak memory in GB", peak, 2.0, at_least=False),
    ]
    if options.with_optimum:
        for what in ("CPU s", "peak GB"):
            found = measure.ratio(rows[f"tfgpt: {what}"], rows[f"optimum: {what}"])
            targets.append(measure.Target(f"tfgpt / Optimum, {what}", found, 0.5, at_least=False))
    if options.with_stock:
        ours, stock = (rows[f"{side}: CPU s beyond import"] for side in ("tfgpt", "stock"))
        targets.append(
            measure.Target("tf2onnx as it is / tfgpt, CPU seconds", measure.ratio(stock, ours), 1.0)
        )
    facts = {"versions": measure.versions(PACKAGES), "disturbance": measure.disturbance(answers)}
    measure.report("export of GPT-2 124m", "as each row says", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
