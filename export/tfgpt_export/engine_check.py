"""The engine's graphs against Keras: probabilities of prompts that run side by side."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from tfgpt.errors import one_line
from tfgpt.generation.loop import Generation
from tfgpt.generation.options import GenerationOptions
from tfgpt.serving.export_directory import ENGINE_OF_PRECISION, prompts_of
from tfgpt.serving.runtime import RUNTIME_ERRORS
from tfgpt_export.bundle import prompts_name
from tfgpt_export.comparison import ENGINE, compare_prompts
from tfgpt_export.gates import Gates, VerificationError
from tfgpt_export.recipe import Artifact
from tfgpt_export.report import LEFT_OUT
from tfgpt_export.runners import EngineRunner
from tfgpt_export.tolerances import LOSSLESS, PROMPTS_FACTOR, PROMPTS_MORE
from tfgpt_export.verify import Verifier


def check_engine(verifier: Verifier, artifact: Artifact) -> Iterator[dict]:
    """The engine says what Keras says: in float32 number by number, and in its graph for long prompts what
    they predict and which tokens follow.

    A graph for long prompts that misses its gates is taken out of the export: it is there for speed alone,
    and a model may have activations that 8 bits a row cannot hold.

    Raises:
        VerificationError: at the first number in float32 that differs.
    """
    yield from _check_float32(verifier, artifact)
    for precision in artifact.recipe.precisions:
        path = prompts_of(artifact.output, precision)
        if path is not None:
            gates = _prompt_gates(precision, verifier, artifact)
            compared = compare_prompts(precision, artifact.output, verifier.reference, gates)
            entries, failure = _until_first_failure(compared)
            if failure:
                path.unlink()
                reason = {"kind": LEFT_OUT, "failures": [], "reason": failure}
                entries = [{"artifact": prompts_name(precision), **reason}]
            yield from entries


def _until_first_failure(compared: Iterator[dict]) -> tuple[list[dict], str | None]:
    """The entries, and the first failure, which may be an error of running the graph at all."""
    entries = []
    try:
        for entry in compared:
            entries.append(entry)
            if entry["failures"]:
                return entries, entry["failures"][0]
    except (FloatingPointError, *RUNTIME_ERRORS) as error:
        return entries, one_line(error)
    return entries, None


def _prompt_gates(precision: str, verifier: Verifier, artifact: Artifact) -> Gates:
    """Those of the precision; without given text what the common file loses, and little more."""
    gates = verifier.gates(prompts_name(precision))
    if gates.predictions:
        return gates
    common = next(
        entry["kl_divergence"]
        for entry in artifact.verification
        if entry["artifact"] == precision and entry["kind"] == "predictions"
    )
    limits = {"kl_divergence": PROMPTS_FACTOR * common + PROMPTS_MORE}
    return dataclasses.replace(gates, predictions=limits)


def _check_float32(verifier: Verifier, artifact: Artifact) -> Iterator[dict]:
    """The float32 engine gives every token of prompts of different lengths the probability that Keras gives.

    The other precisions are graphs that were checked, rewritten the same way; they generate in the last one.

    Raises:
        VerificationError: naming the prompt and the token that differ.
    """
    if "fp32" not in artifact.files:
        return
    config = artifact.config
    path = artifact.files["fp32"].with_name(ENGINE_OF_PRECISION["fp32"])
    runner = EngineRunner(path, config.context_length)
    lengths = [min(length, config.context_length - 1) for length in (1, 24, 3, 11)]
    prompts = [
        np.random.default_rng(3).integers(0, config.vocabulary_size, length).tolist() for length in lengths
    ]
    options = GenerationOptions(max_new_tokens=1, prompt_logprobs=True, end_of_text_ids=())
    found = runner.generate(prompts, options)
    worst = float(max(_difference(verifier.reference.model, each) for each in found))
    yield {
        "artifact": "fp32",
        "kind": "engine",
        "client": ENGINE,
        "tolerance": LOSSLESS,
        "max_relative_difference": worst,
        "failures": [],
    }


def _difference(model, found: Generation) -> float:
    prompt, scores = found.prompt_ids, found.prompt_logprobs[1:]
    logits = np.asarray(model(np.array([prompt]), training=False))[0].astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    expected = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    size = max(1.0, float(np.abs(logits).max()))
    worst = 0.0
    for place, score in enumerate(scores):
        difference = abs(score - expected[place, prompt[place + 1]]) / size
        if not difference <= LOSSLESS:
            raise VerificationError(
                f"engine fp32: the probability of token {place + 1} of a prompt of {len(prompt)} differs "
                f"from Keras by {difference:.3g} where {LOSSLESS:g} is allowed"
            )
        worst = max(worst, difference)
    return worst
