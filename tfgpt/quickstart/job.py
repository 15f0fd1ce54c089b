"""Corpus, training, baselines, export, generation: one after the other, each skipped when it stands already.

OUTPUT/
  train/            what `tfgpt train` writes: data, checkpoints, TensorBoard, the model
  export/           what `tfgpt export` writes: ONNX, SavedModel, verification
  results.json      every number that is shown, and how long each part took
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tfgpt.checkpoints.directory import read_model_config
from tfgpt.files import read_json, write_json
from tfgpt.paths import user_path
from tfgpt.quickstart import page
from tfgpt.serving.export_directory import FILE_OF_PRECISION
from tfgpt.training.output import check_output

BUDGETS = Path(__file__).parent
# LZMA takes some 2 s for each MB that it reads; more training text than this hardly helps it.
COMPRESSOR_TRAINING_BYTES = 4_000_000
NEW_TOKENS = 48


def quickstart(output, corpus: str | None = None, budget: str = "small", as_json: bool = False) -> dict:
    """Does the whole job and shows it on standard output.

    Args:
        output: directory for everything; an interrupted job in it goes on.
        corpus: a file or directory of text; `None` is the standard library of the running Python.
        budget: "small" or "medium", the recipes beside this file.
        as_json: print the results as one JSON object instead.

    Returns:
        what `results.json` holds.

    Raises:
        InputError: no usable text, or `output` holds another job.
    """
    output = user_path(output)
    check_output(output, job="train", passed_over="train")
    show = page.Page(quiet=as_json)
    results = {"budget": budget, "corpus": corpus or "Python's standard library", "seconds": {}}
    show.introduction(output, results)
    with _timed(results, "training", show, "1/4  Corpus and training"):
        result = _train(output, corpus, budget, show)
        results["training"] = result.metrics
        results["data"] = _about(result.corpus)
    show.training(results)
    with _timed(
        results, "baselines", show, "2/4  What is that worth? Two baselines on the same validation bytes"
    ):
        results["baselines"] = _baselines(output, result.corpus)
    show.baselines(results)
    with _timed(results, "export", show, "3/4  Export to ONNX and SavedModel, verified against Keras"):
        results["verification"] = _export(output, result)
    show.verification(results["verification"], _sizes(output / "export"))
    with _timed(
        results, "generation", show, "4/4  Generation by onnxruntime, in a process without TensorFlow"
    ):
        results["completions"] = _generate(output / "export", _prompts(result.corpus))
    show.completions(results)
    write_json(output / "results.json", results)
    show.next_commands(output, results)
    if as_json:
        print(json.dumps(results))
    return results


def _train(output: Path, corpus: str | None, budget: str, show: page.Page):
    from tfgpt.commands.backend import load_keras
    from tfgpt.recipes import load_recipe

    load_keras("the quickstart")
    recipe = load_recipe(BUDGETS / f"{budget}.yaml")
    data = recipe.data.model_copy(update={"corpus": corpus})
    recipe = recipe.model_copy(update={"output": str(output / "train"), "data": data})
    from tfgpt.training.fit import train
    from tfgpt.training.strategy import tune_cpu_compiler

    tune_cpu_compiler()
    return train(recipe, corpus_progress=show.corpus_progress)


def _about(corpus) -> dict:
    return {
        "training_bytes": corpus.train.num_bytes,
        "validation_bytes": corpus.validation.num_bytes,
        "training_files": corpus.train.num_documents,
        "validation_files": corpus.validation.num_documents,
        "training_tokens": corpus.train.num_tokens,
        "vocabulary_size": corpus.tokenizer.vocabulary_size,
    }


def _baselines(output: Path, corpus) -> dict:
    """Bits per byte of both baselines; kept beside the data, since the compressor takes its time."""
    from tfgpt.evaluation.baselines import lzma_baseline, unigram_bits_per_byte

    path = output / "baselines.json"
    key = corpus.report["inputs_fingerprint"]
    known = read_json(path) if path.exists() else {}
    if known.get("inputs_fingerprint") == key:
        return known["bits_per_byte"]
    compressor = lzma_baseline(
        corpus.text_bytes("validation"), corpus.text_bytes("train"), COMPRESSOR_TRAINING_BYTES
    )
    found = {
        "unigram": unigram_bits_per_byte(corpus.train, corpus.validation),
        "lzma": compressor.alone,
        "lzma_given_training_text": compressor.given_training,
        "lzma_training_bytes": compressor.training_bytes,
    }
    write_json(path, {"inputs_fingerprint": key, "bits_per_byte": found})
    return found


def _export(output: Path, result) -> dict:
    """Exports unless this very model is exported already; judged on windows of the validation text."""
    target = output / "export"
    weights = result.model_directory / "model.safetensors"
    stat = weights.stat()
    key = {"size": stat.st_size, "changed": stat.st_mtime_ns}
    marker = output / "exported.json"
    if not (marker.exists() and read_json(marker) == key and _is_whole(target)):
        from tfgpt_export import export

        from tfgpt.commands.export import show_stage
        from tfgpt.evaluation.held_out import spread_windows

        context_length = read_model_config(result.model_directory)[1].context_length
        export(
            result.model_directory,
            target,
            verification_tokens=spread_windows(result.corpus.validation, context_length),
            progress=show_stage,
        )
        write_json(marker, key)
    return read_json(target / "verification.json")


def _is_whole(export_dir: Path) -> bool:
    """Whether every file that its checksums list is there; they are written last."""
    sums = export_dir / "SHA256SUMS"
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    return bool(lines) and all((export_dir / line.partition("  ")[2]).is_file() for line in lines)


def _sizes(export_dir: Path) -> dict[str, int]:
    """Bytes of each artifact, external data included."""
    parts = {name: export_dir.glob(f"onnx/{file}*") for name, file in FILE_OF_PRECISION.items()}
    parts["saved_model"] = (export_dir / "saved_model").rglob("*")
    return {name: sum(path.stat().st_size for path in paths) for name, paths in parts.items()}


def _prompts(corpus, count: int = 3) -> list[str]:
    """Beginnings of lines of the validation text, which the model has not seen."""
    lines = [line for line in corpus.text_bytes("validation").decode("utf-8", "replace").splitlines()]
    lines = [line.rstrip() for line in lines if 12 <= len(line.strip()) <= 200] or ["\n"]
    chosen = [lines[(2 * index + 1) * len(lines) // (2 * count)] for index in range(count)]
    return [line[: max(12, len(line) // 2)] for line in chosen]


def _generate(export_dir: Path, prompts: list[str]) -> list[dict]:
    """Runs `tfgpt generate` where importing TensorFlow or Keras is an error."""
    code = (
        "import sys\n"
        "sys.modules.update(tensorflow=None, keras=None)\n"
        "from tfgpt.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    options = ["--max-new-tokens", str(NEW_TOKENS), "--temperature", "0.6", "--top-k", "40", "--json"]
    command = [sys.executable, "-c", code, "generate", *options, "--", str(export_dir), *prompts]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"generation failed: {reason.removeprefix('tfgpt: ')}")
    return json.loads(done.stdout)


class _timed:
    """Announces a part and notes how long it took."""

    def __init__(self, results: dict, name: str, show: page.Page, title: str):
        self.results, self.name, self.show, self.title = results, name, show, title

    def __enter__(self):
        self.show.heading(self.title)
        self.start = time.perf_counter()

    def __exit__(self, *details):
        self.results["seconds"][self.name] = round(time.perf_counter() - self.start, 1)
