"""Every artifact against Keras: its numbers, what it predicts, and the tokens that it chooses.

A comparison gives one dictionary for the report, with a list of `failures`: one line for each gate that it
misses, the first being the first thing wrong. `reference` is a `KerasReference` or a `RecordedReference`,
`runner` one of `tfgpt_export.runners`.
"""

from collections.abc import Iterator
from pathlib import Path

from tfgpt.serving import Session
from tfgpt.serving.export_directory import prompts_of
from tfgpt_export.bundle import prompts_name
from tfgpt_export.gates import Gates, broken_limits
from tfgpt_export.greedy import Run, compare_greedy, greedy_tokens
from tfgpt_export.runners import EngineRunner, PromptRunner

ENGINE = "tfgpt's engine"


def compare_numbers(name: str, reference, runner, gates: Gates) -> dict:
    """Caches and logits in every case.

    Within rounding (kind "lossless") where the gates name a tolerance; elsewhere (kind "layers") the
    differences tell where those of the predictions come from.
    """
    cases, tensors, failures = _differences(name, reference, runner, gates.tolerance)
    return {
        "artifact": name,
        "kind": "layers" if gates.tolerance is None else "lossless",
        "failures": failures,
        "tolerance": gates.tolerance,
        "max_relative_difference": max(cases.values()),
        "cases": cases,
        "tensors": tensors,
    }


def compare_predictions(name: str, reference, runner, gates: Gates) -> dict:
    """What it predicts on text."""
    agreement = reference.agreement(runner.predict)
    return {
        "artifact": name,
        "kind": "predictions",
        "failures": broken_limits(name, agreement, gates.predictions),
        "limits": gates.predictions,
        **agreement.to_dict(),
    }


def compare_prompts(precision: str, export_dir: Path, reference, gates: Gates) -> Iterator[dict]:
    """The graph for long prompts: what is predicted behind them, and greedy tokens of rows by it alone."""
    name = prompts_name(precision)
    yield compare_predictions(name, reference, PromptRunner(export_dir, precision), gates)
    runner = EngineRunner(prompts_of(export_dir, precision), reference.context_length)
    yield compare_generation(name, reference, runner.generate, gates, ENGINE)


def compare_generation(name: str, reference, run: Run, gates: Gates, client: str | None = None) -> dict:
    """Greedy tokens of `run(prompts, options)`, in batches of prompts of different lengths.

    `client` is who computed them, where it is not plain onnxruntime or TensorFlow.
    """
    expected = reference.greedy
    found = greedy_tokens(run, expected.prompts, expected.token_ids.shape[1])
    entry = compare_greedy(name, expected, found, gates.greedy)
    return entry if client is None else {**entry, "client": client}


def sessions(export_dir: Path, precision: str) -> Iterator[tuple[str | None, Run]]:
    """(who computes, `Session.generate`) over the common graph, and over the engine's where it runs here."""
    yield None, Session.open(export_dir, precision, engine=False).generate
    session = Session.open(export_dir, precision)
    if session.engine is not None:
        yield ENGINE, session.generate


def _differences(name: str, reference, runner, tolerance: float | None):
    """The largest difference of each case and of each tensor, and the first that is over the tolerance."""
    cases: dict[str, float] = {}
    tensors: dict[str, float] = {}
    failures: list[str] = []
    for expected in reference.answers:
        found = runner.run(expected.case)
        for tensor in expected.names:
            wrong = expected.shape_difference(tensor, found[tensor])
            difference = float("inf") if wrong else expected.difference(tensor, found[tensor])
            cases[expected.case.name] = _larger(cases.get(expected.case.name, 0.0), difference)
            tensors[tensor] = _larger(tensors.get(tensor, 0.0), difference)
            if wrong:
                failures.append(f"{name}: {tensor} {wrong} ({expected.case.name})")
            elif tolerance is not None and not failures and not difference <= tolerance:
                failures.append(
                    f"{name}: {tensor} is the first tensor that differs from Keras, by {difference:.3g} "
                    f"where {tolerance:g} is allowed ({expected.case.name})"
                )
    return cases, tensors, failures


def _larger(one: float, other: float) -> float:
    """NaN is larger than every number."""
    return other if not other <= one else one
