"""What the export checks after each stage, while it has the Keras model at hand."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from tfgpt.generation.loop import generate
from tfgpt.serving.export_directory import prompts_of
from tfgpt_export.bundle import prompts_name
from tfgpt_export.comparison import compare_generation, compare_numbers, compare_predictions, sessions
from tfgpt_export.gates import JUDGED, Gates, VerificationError, gates_of, is_lossless
from tfgpt_export.keras_reference import KerasReference
from tfgpt_export.recipe import Artifact
from tfgpt_export.reference import Answer, answer
from tfgpt_export.reference_file import REFERENCE_FILE, RecordedReference, write_reference
from tfgpt_export.rounded import float_products_session, weights_of_file
from tfgpt_export.runners import OnnxRunner, PromptRunner, SavedModelRunner
from tfgpt_export.saved_model_checks import check_graph_generation, check_graph_text
from tfgpt_export.tolerances import LOSSLESS, WEIGHT_CHANGE

__all__ = ["VerificationError", "Verifier"]


class Verifier:
    """Holds the Keras model and its answers, and compares artifacts with them.

    Every check yields one dictionary for the report and raises `VerificationError` at the first thing wrong.
    """

    def __init__(self, artifact: Artifact):
        self.artifact = artifact
        self._reference: KerasReference | None = None

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self._reference = None

    @property
    def reference(self) -> KerasReference:
        """The Keras model, loaded when the first check needs it."""
        if self._reference is None:
            recipe = self.artifact.recipe
            self._reference = KerasReference(self.artifact.keras_model(), recipe.verification_tokens)
        return self._reference

    def check_lossless_onnx(self, artifact: Artifact, name: str = "fp32") -> Iterator[dict]:
        """A float32 ONNX file gives Keras's numbers in every case."""
        if name in artifact.files:
            yield from self._compare(name, OnnxRunner.open(artifact.files[name]))

    def check_portable_onnx(self, artifact: Artifact) -> Iterator[dict]:
        """So does the file of standard operators."""
        yield from self.check_lossless_onnx(artifact, "portable")

    def check_half_onnx(self, artifact: Artifact) -> Iterator[dict]:
        """The float16 ONNX file gives Keras's numbers within its rounding, and predicts what Keras does."""
        yield from self.check_lossless_onnx(artifact, "fp16")

    def check_quantized_onnx(self, artifact: Artifact) -> Iterator[dict]:
        """Quantized ONNX files give the numbers of Keras with their weights, and predict what Keras does."""
        for name, path in artifact.files.items():
            if name in artifact.plans:
                yield passed(self._compare_rounded(name, artifact))
                yield from self._compare(name, OnnxRunner.open(path))

    def check_saved_model(self, artifact: Artifact) -> Iterator[dict]:
        """The SavedModel gives Keras's numbers, and its own loop and tokenizer Keras's tokens and texts."""
        if "saved_model" not in artifact.files:
            return
        runner = SavedModelRunner(artifact.files["saved_model"], artifact.config)
        for expected in self.reference.answers:
            difference = expected.difference("logits", runner.run_whole(expected.case))
            if not difference <= LOSSLESS:
                raise VerificationError(
                    f"saved_model serving_default: logits differ from Keras by {difference:.3g} where "
                    f"{LOSSLESS:g} is allowed ({expected.case.name})"
                )
        yield from self._compare("saved_model", runner)
        decoder = runner.decoder(artifact.config.context_length)
        yield self._compare_generation("saved_model", functools.partial(generate, decoder))
        yield passed(check_graph_generation(runner.model, self.reference.model))
        yield passed(
            check_graph_text(runner.model, self.reference.model, artifact.model_dir, artifact.text_refused)
        )

    def check_generation(self, artifact: Artifact) -> Iterator[dict]:
        """Sessions open the finished directory, and choose the greedy tokens that Keras chooses."""
        for name in artifact.recipe.precisions:
            for client, run in sessions(artifact.output, name):
                yield self._compare_generation(name, run, client)

    def write_reference(self, artifact: Artifact) -> None:
        """Leaves Keras's answers in the export, and how far from them each file is, for later checks."""
        recorded = self.reference.recorded()
        # The first of an artifact: the common file's before the engine's.
        shares: dict[str, float] = {}
        for entry in artifact.verification:
            if entry["kind"] == "generation":
                shares.setdefault(entry["artifact"], entry["decided_disagreement"])
        for name, path in artifact.files.items():
            if not is_lossless(name):
                found = _measured(recorded, OnnxRunner.open(path))
                recorded.measured[name] = found | {"greedy": shares[name]}
            if prompts_of(artifact.output, name):
                runner = PromptRunner(artifact.output, name)
                found = _measured(recorded, runner)
                recorded.measured[prompts_name(name)] = found | {"greedy": shares[prompts_name(name)]}
        write_reference(recorded, artifact.output / REFERENCE_FILE)

    def gates(self, name: str) -> Gates:
        """What an artifact may differ by from Keras."""
        return gates_of(name, self.reference.text_is_given)

    def _compare(self, name: str, runner) -> Iterator[dict]:
        yield passed(compare_numbers(name, self.reference, runner, self.gates(name)))
        yield passed(compare_predictions(name, self.reference, runner, self.gates(name)))

    def _compare_rounded(self, name: str, artifact: Artifact) -> dict:
        """The arithmetic apart from the rounding: Keras computes with the weights that the file has."""
        reference = self.reference
        cases = [each.case for each in reference.answers]
        with weights_of_file(reference.model, artifact, name) as changes:
            failures = changed_too_much(name, changes)
            rounded = RoundedReference([answer(reference.model, case) for case in cases])
        runner = OnnxRunner(float_products_session(artifact.files[name]))
        entry = compare_numbers(name, rounded, runner, Gates(LOSSLESS))
        del entry["cases"], entry["tensors"]  # "layers" has those that tell something
        largest = max(changes.values())
        failures += entry["failures"]
        return {**entry, "kind": "rounded", "failures": failures, "largest_change_of_a_weight": largest}

    def _compare_generation(self, name: str, run, client: str | None = None) -> dict:
        return passed(compare_generation(name, self.reference, run, self.gates(name), client))


@dataclass(frozen=True)
class RoundedReference:
    """Keras's answers with the weights of a quantized file."""

    answers: list[Answer]


def _measured(recorded: RecordedReference, runner) -> dict[str, float]:
    found = recorded.agreement(runner.predict).to_dict()
    return {measure: found[measure] for measure in JUDGED}


def changed_too_much(name: str, changes: dict[str, float]) -> list[str]:
    """One line for each weight that rounding changed by more than rounding does."""
    limit = WEIGHT_CHANGE[name]
    return [
        f"{name}: rounding changed {weight} by {change:.3g} of its size, expected at most {limit:g}"
        for weight, change in changes.items()
        if not change <= limit
    ]


def passed(entry: dict) -> dict:
    """The entry; raises `VerificationError` with its first failure."""
    if entry["failures"]:
        raise VerificationError(entry["failures"][0])
    return entry
