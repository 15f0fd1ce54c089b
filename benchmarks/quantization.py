"""What rounding weights costs: ways to round side by side, on text that the model was not trained on.

Goals of the project's numbers: int8 changes perplexity by at most 0.3 %, int4 by at most 3 %.

Command:  python benchmarks/quantization.py MODEL_DIR [--text PATH] [--output benchmarks/results/NAME.json]
Setting:  a model that `tfgpt quickstart` or `tfgpt train` made, with its data beside it: 64 windows of 128
          tokens of the validation text judge, 64 of the training text calibrate. Each way rounds the weights
          of the Keras model, which then predicts the windows in float32: the change of perplexity, and the
          KL divergence from the model as it was. `alone` rows round one kind of weight and no other. The last
          rows are the exported files, run by onnxruntime, whose products round activations to 8 bits as well.
          MB are those of the weights that are rounded, with their scales.
Hardware: any CPU. Time: about 5 minutes on 2 cores for the quickstart's model.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import measure

PACKAGES = ("tfgpt", "tensorflow", "keras", "numpy", "onnxruntime")
PROMPTS = "int8_prompts"  # the engine's graph for long prompts
LIMITS = {"int8": 0.3, PROMPTS: 0.3, "int4": 3.0}
# name -> (bits, block size, how scales and numbers are chosen, bits of the token table)
WAYS = {
    "8 bits, blocks of 128, nearest": (8, 128, "nearest", 8),
    "8 bits, blocks of 32, nearest": (8, 32, "nearest", 8),
    "8 bits, one scale a column, table in blocks of 128": (8, 128, "by row", 8),
    "4 bits, blocks of 32, nearest": (4, 32, "nearest", 4),
    "4 bits, blocks of 32, searched": (4, 32, "searched", 4),
    "4 bits, blocks of 32, calibrated": (4, 32, "calibrated", 4),
    "4 bits, blocks of 32, calibrated but the table": (4, 32, "calibrated products", 4),
    "4 bits, blocks of 16, searched": (4, 16, "searched", 4),
    "4 bits, blocks of 64, searched": (4, 64, "searched", 4),
    "4 bits, blocks of 64, calibrated": (4, 64, "calibrated", 4),
    "4 bits, blocks of 128, calibrated": (4, 128, "calibrated", 4),
    "4 bits of 32, table in 8, nearest": (4, 32, "nearest", 8),
    "4 bits of 32, table in 8, searched": (4, 32, "searched", 8),
    "4 bits of 32, table in 8, calibrated": (4, 32, "calibrated", 8),
}
KINDS = {
    "token table": "token_embedding/table",
    "queries, keys, values": "attention/qkv",
    "attention's output": "attention/output",
    "MLP up": "mlp/up",
    "MLP down": "mlp/down",
}


def rounded_weight(weight, form, how: str, moments):
    """One weight `[rows, in]` as its blocks stand for it, and their bytes.

    `how`: "by row" is the one scale for each row that the export gives all products but the head.
    """
    from tfgpt_export import blocks, calibrate

    if how.startswith("calibrated") and moments is not None:
        packed, scales = calibrate.calibrated(weight, moments, form)
    else:
        roundings = {"nearest": blocks.nearest, "by row": blocks.nearest_by_row}
        rounding = roundings.get(how, blocks.searched)
        packed, scales = blocks.quantize_blocks(weight, form, rounding)
    return blocks.dequantize_blocks(packed, scales, form, weight.shape[1]), packed.nbytes + scales.nbytes


class Judge:
    """The Keras model, its own weights, and the text."""

    def __init__(self, model_dir: Path, text: Path | None):
        from tfgpt_export.calibrate import second_moments

        import tfgpt
        from tfgpt.evaluation.held_out import windows_beside, windows_of_text

        self.windows = windows_beside(model_dir) if text is None else windows_of_text(model_dir, text)
        self.calibration = windows_beside(model_dir, "train")
        if self.windows is None or self.calibration is None:
            raise SystemExit(f"found no data beside {model_dir}, expected a model that `tfgpt train` made")
        self.model = tfgpt.CausalLM.from_pretrained(model_dir, dtype="float32")
        self.reference = tfgpt.CausalLM.from_pretrained(model_dir, dtype="float32")
        self.moments = second_moments(self.model, self.calibration)

    def score(self, way, wanted=lambda name: True) -> dict[str, float]:
        """Percent of perplexity, KL divergence and megabytes of one way."""
        import numpy as np
        from tfgpt_export.agreement import measure_agreement
        from tfgpt_export.blocks import BlockFormat

        bits, block_size, how, table_bits = way
        total = 0
        variables, own = self.model.named_weights(), self.reference.named_weights()
        for name, variable in variables.items():
            weight = np.asarray(own[name])
            is_table = name.endswith("token_embedding/table")
            if wanted(name) and (is_table or name.endswith("kernel")):
                form = BlockFormat(table_bits if is_table else bits, block_size)
                stored = weight if is_table else weight.T
                moments = None if is_table and how != "calibrated" else self.moments.get(name)
                how_here = "nearest" if is_table and how == "by row" else how
                rounded, num_bytes = rounded_weight(stored, form, how_here, moments)
                weight, total = rounded if is_table else rounded.T, total + num_bytes
            variable.assign(weight)
        agreement = measure_agreement(
            self.reference,
            lambda rows: np.asarray(self.model(rows, training=False)),
            self.windows,
            rows_at_once=16,
        )
        return {
            "perplexity %": 100 * agreement.perplexity_change,
            "KL": agreement.kl_divergence,
            "MB": total / 1e6,
        }


def exported(model_dir: Path, windows, calibration) -> dict[str, dict[str, float]]:
    """The same numbers of the files that the export writes."""
    import tfgpt_export
    from tfgpt_export.bundle import prompts_of
    from tfgpt_export.tolerances import QUANTIZED

    found = {}
    QUANTIZED.update(int8={}, int8_prompts={}, int4={})  # it is for this script to say what is too much
    with tempfile.TemporaryDirectory() as folder:
        artifact = tfgpt_export.export(
            model_dir,
            Path(folder) / "export",
            ("int8", "int4"),
            saved_model=False,
            verification_tokens=windows,
            calibration_tokens=calibration,
        )
        for entry in artifact.verification:
            if entry["kind"] == "predictions":
                name, change = entry["artifact"], 100 * entry["perplexity_change"]
                path = prompts_of(artifact.output, "int8") if name == PROMPTS else artifact.files[name]
                size = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
                found[name] = {"perplexity %": change, "KL": entry["kl_divergence"], "MB": size / 1e6}
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument(
        "--text", type=Path, help="held-out text; by default the validation text beside the model"
    )
    parser.add_argument("--output", type=Path, help="also write the result as JSON to this file")
    options = parser.parse_args(arguments)
    judge = Judge(options.model_dir, options.text)
    table = {}
    print(f"{'way':52}{'perplexity %':>14}{'KL':>12}{'MB':>9}", flush=True)

    def note(name: str, numbers: dict[str, float]) -> None:
        table[name] = numbers
        print(
            f"{name:52}{numbers['perplexity %']:14.3f}{numbers['KL']:12.2e}{numbers['MB']:9.2f}", flush=True
        )

    for name, way in WAYS.items():
        note(name, judge.score(way))
    for kind, part in KINDS.items():
        numbers = judge.score((4, 32, "searched", 4), lambda name, part=part: part in name)
        note(f"{kind} alone, 4 bits searched", numbers)
    for name, numbers in exported(options.model_dir, judge.windows, judge.calibration).items():
        note(f"exported {name}", numbers)
    targets = []
    for name, limit in LIMITS.items():
        change = abs(table[f"exported {name}"]["perplexity %"])
        targets.append(measure.Target(f"{name}: change of perplexity in %", change, limit, at_least=False))
    rows = {f"{name}: {what}": [number] for name, row in table.items() for what, number in row.items()}
    facts = {"versions": measure.versions(PACKAGES), "table": table}
    measure.report("rounding of weights", "as each row says", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
