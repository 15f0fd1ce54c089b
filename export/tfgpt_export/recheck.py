"""An export verified again, where it was received: without TensorFlow and without the model.

The answers that Keras gave are in the export (`verification_reference.npz`); with a model directory they are
asked of the model itself. Everything is compared and every failure is listed, not only the first.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tfgpt._version import __version__
from tfgpt.checkpoints.directory import read_model_config
from tfgpt.errors import InputError, one_line
from tfgpt.files import read_json
from tfgpt.generation.loop import generate
from tfgpt.serving.engine_graph import engine_runs_here
from tfgpt.serving.export_directory import CONTEXT_LENGTH_KEYS, FILE_OF_PRECISION, engine_of, prompts_of
from tfgpt.serving.graph import load_graph
from tfgpt.serving.runtime import RUNTIME_ERRORS
from tfgpt_export import clients
from tfgpt_export.bundle import GRAPHS, SAVED_MODEL, artifact_sizes, graphs_in, prompts_name
from tfgpt_export.checksums import compare_checksums, read_report
from tfgpt_export.comparison import (
    compare_generation,
    compare_numbers,
    compare_predictions,
    compare_prompts,
    sessions,
)
from tfgpt_export.gates import NOT_JUDGED, Gates, gates_again, gates_of, is_lossless
from tfgpt_export.greedy import compare_greedy
from tfgpt_export.reference_file import REFERENCE_FILE, read_reference
from tfgpt_export.runners import OnnxRunner


def verify_export(
    export_dir: Path,
    model_dir: Path | None = None,
    text: np.ndarray | None = None,
    client_names: Sequence[str] = (),
    client_places: dict[str, str] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> dict:
    """Compares everything in an export with Keras's answers.

    Args:
        export_dir: what `tfgpt export` wrote.
        model_dir: the model it was made from, to ask instead of the recorded answers; needs TensorFlow.
        text: int `[rows, length]` of real text to judge predictions on; needs `model_dir`.
        client_names: of `tfgpt_export.clients.CLIENTS`, or "all" for those that are found.
        client_places: client -> its interpreter, or its folder with node_modules.
        progress: called with a line before each step.

    Returns:
        the report: "passed", "failures", "artifacts" (one entry for each comparison), "sizes", "skipped".

    Raises:
        InputError: not an export, whole but without recorded answers or a model, or a client that cannot be
            found.
    """
    export_dir = Path(export_dir)
    graphs = _graphs(export_dir)
    asked = clients.find(client_names, client_places or {})  # a wrong name is told before the work
    if model_dir is not None:
        _check_same_model(export_dir, model_dir)
    progress("checksums")
    files = compare_checksums(export_dir)
    entries = [files]
    reference, failure = _reference(export_dir, model_dir, text, progress, bool(files["failures"]))
    if failure:
        entries.append({"artifact": "reference", "kind": "reference", "failures": [failure]})
    skipped = list(asked.missing)
    if reference is not None:
        engine = engine_runs_here()
        if not engine and any(engine_of(export_dir, name) for name in graphs):
            skipped.append("the engine's graphs: this onnxruntime cannot run them, 1.32 and newer can")
        for name in graphs:
            entries += _as_far_as_it_runs(name, _onnx_entries(name, export_dir, reference, progress))
            if engine and prompts_of(export_dir, name):
                compared = _prompt_entries(name, export_dir, reference, progress)
                entries += _as_far_as_it_runs(prompts_name(name), compared)
        if (export_dir / SAVED_MODEL).is_dir():
            if model_dir is not None:
                entries += _saved_model_entries(export_dir, reference, progress)
            elif "tensorflow" not in asked.programs:
                skipped.append("saved_model: give --client tensorflow, or --model MODEL_DIR, to compare it")
        for client in asked.programs.values():
            progress(f"client {client.name}")
            entries.append(_client_entry(client, export_dir, reference, list(graphs)))
    return _report(export_dir, model_dir, reference, entries, skipped)


def _graphs(export_dir: Path) -> dict[str, Path]:
    if not export_dir.is_dir():
        raise InputError(f"found no directory {export_dir}, expected an export; make one with `tfgpt export`")
    graphs = graphs_in(export_dir)
    if not graphs:
        raise InputError(
            f"found no onnx/*.onnx in {export_dir}, expected an export; make one with `tfgpt export`"
        )
    return graphs


def _check_same_model(export_dir: Path, model_dir: Path) -> None:
    """Raises InputError for a model of other sizes than the export's config.json states."""
    try:
        exported = read_model_config(export_dir)[1]
    except InputError:
        return  # a damaged one is a failure of the checksums
    model = read_model_config(model_dir)[1]
    for name in ("family", "num_layers", "hidden_dim", "num_heads", "vocabulary_size"):
        found, expected = getattr(model, name), getattr(exported, name)
        if found != expected:
            raise InputError(
                f"found a model with {name}={found} in {model_dir}, expected {expected} as {export_dir} has; "
                "give the model that it was made from"
            )


def _reference(export_dir: Path, model_dir: Path | None, text, progress, damaged: bool):
    """Keras's answers, and what is wrong with the recorded ones.

    That there are none is the caller's mistake, unless the export is `damaged`: then it is one failure more.
    """
    if model_dir is not None:
        progress("loading the Keras model")
        from tfgpt_export.keras_model import KerasModel
        from tfgpt_export.keras_reference import KerasReference

        return KerasReference(KerasModel(Path(model_dir))(), text), None
    path = export_dir / REFERENCE_FILE
    try:
        return read_reference(path), None
    except InputError as error:
        if not path.is_file() and not damaged:
            raise
        return None, str(error)


def _as_far_as_it_runs(name: str, compared: Iterator[dict]) -> list[dict]:
    """The entries, and one more that says what is wrong with a file that cannot be compared to the end."""
    entries = []
    try:
        for entry in compared:
            entries.append(entry)
    except (InputError, FloatingPointError, *RUNTIME_ERRORS) as error:
        failure = f"{name}: {one_line(error)}"
        entries.append({"artifact": name, "kind": "unusable", "failures": [failure]})
    return entries


def _onnx_entries(name: str, export_dir: Path, reference, progress) -> Iterator[dict]:
    progress(f"{name}: numbers and predictions")
    graph = load_graph(export_dir / GRAPHS[name])
    _check_sizes(graph, reference)
    runner = OnnxRunner(graph.session)
    gates = _gates(name, reference)
    yield compare_numbers(name, reference, runner, gates)
    yield compare_predictions(name, reference, runner, gates)
    if name not in FILE_OF_PRECISION:
        return  # no session opens the file of standard operators
    progress(f"{name}: greedy tokens")
    for client, run in sessions(export_dir, name):
        yield compare_generation(name, reference, run, gates, client)


def _prompt_entries(name: str, export_dir: Path, reference, progress) -> Iterator[dict]:
    progress(f"{name}: long prompts")
    gates = _gates(prompts_name(name), reference)
    if gates.greedy is not None and math.isnan(gates.greedy):  # older exports recorded none
        gates = dataclasses.replace(gates, greedy=NOT_JUDGED)
    yield from compare_prompts(name, export_dir, reference, gates)


def _gates(name: str, reference) -> Gates:
    if reference.whole:
        return gates_of(name, reference.text_is_given)
    if name not in reference.measured and not is_lossless(name):
        raise InputError(
            f"found no record of {name} in {REFERENCE_FILE}, expected one; copy the export again"
        )
    return gates_again(name, reference.measured.get(name, {}))


def _check_sizes(graph, reference) -> None:
    if reference.whole:
        return
    found = (graph.vocabulary_size, len(graph.cache_names) // 2)
    wanted = (reference.vocabulary_size, reference.num_layers)
    if found != wanted:
        raise InputError(
            f"found a graph of {found[0]} tokens and {found[1]} layers, expected {wanted[0]} and {wanted[1]} "
            f"as in {REFERENCE_FILE}; copy the export again"
        )


def _saved_model_entries(export_dir: Path, reference, progress) -> list[dict]:
    from tfgpt_export.runners import SavedModelRunner
    from tfgpt_export.saved_model_checks import check_graph_generation, check_graph_text

    progress("saved_model: numbers, predictions and greedy tokens")
    config = reference.model.config
    runner = SavedModelRunner(export_dir / SAVED_MODEL, config)
    run = functools.partial(generate, runner.decoder(config.context_length))
    gates = gates_of("saved_model", reference.text_is_given)
    entries = [
        compare_numbers("saved_model", reference, runner, gates),
        compare_predictions("saved_model", reference, runner, gates),
        compare_generation("saved_model", reference, run, gates),
        check_graph_generation(runner.model, reference.model),
    ]
    if "generate_text" in runner.model.signatures:
        entries.append(check_graph_text(runner.model, reference.model, export_dir))
    return entries


def _client_entry(client: clients.Program, export_dir: Path, reference, precisions: list[str]) -> dict:
    precision = client.precision(export_dir, precisions)
    expected = reference.greedy
    try:
        rows = client.greedy_tokens(export_dir, expected.prompts, expected.token_ids.shape[1], precision)
    except clients.ClientError as error:
        return {"artifact": precision, "kind": "generation", "client": client.name, "failures": [str(error)]}
    found = clients.completed(rows, expected.token_ids, _end_of_text(export_dir))
    title = f"{precision} in {client.name}"
    gates = _gates(precision, reference)
    entry = compare_greedy(title, expected, found, gates.greedy)
    return entry | {"artifact": precision, "client": client.name}


def _end_of_text(export_dir: Path) -> set[int]:
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        if (export_dir / name).is_file():
            value = read_json(export_dir / name).get("eos_token_id")
            ends |= set(value) if isinstance(value, list) else {value} - {None}
    return ends


def _report(export_dir: Path, model_dir, reference, entries: list[dict], skipped: list[str]) -> dict:
    config = read_json(export_dir / "config.json")
    failures = [failure for entry in entries for failure in entry["failures"]]
    return {
        "tfgpt": __version__,
        "verified": True,
        "passed": not failures,
        "failures": failures,
        "compared_with": "recorded answers" if model_dir is None else "Keras",
        "text": "given" if reference is not None and reference.text_is_given else "the model's own",
        "model": {
            "type": config.get("model_type"),
            "vocabulary_size": config.get("vocab_size"),
            "context_length": next((config[key] for key in CONTEXT_LENGTH_KEYS if key in config), None),
        },
        "sizes": artifact_sizes(export_dir),
        "operators": read_report(export_dir).get("operators", {}),
        "artifacts": entries,
        "skipped": skipped,
    }
