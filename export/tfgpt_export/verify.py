"""Every artifact against Keras: lossless ones by numbers, quantized ones by what they say."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfgpt.generation.options import GenerationOptions
from tfgpt.models.causal_lm import CausalLM
from tfgpt_export import signature
from tfgpt_export.agreement import Agreement, measure_agreement
from tfgpt_export.recipe import Artifact
from tfgpt_export.reference import Answer, Case, answer, make_cases, real_part
from tfgpt_export.rounded import float_products_session, weights_of_file
from tfgpt_export.tolerances import LOSSLESS, QUANTIZED, TOLERANCES, WEIGHT_CHANGE

GENERATED_TOKENS = 16


class VerificationError(RuntimeError):
    """An artifact does not say what the Keras model says; the export stops and leaves nothing."""


class Verifier:
    """Holds the Keras model and its answers, and compares artifacts with them.

    Every check yields one dictionary for the report and raises `VerificationError` at the first thing wrong.
    """

    def __init__(self, artifact: Artifact):
        self.artifact = artifact
        self._model: CausalLM | None = None
        self._answers: list[Answer] = []

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self._model = None

    @property
    def model(self) -> CausalLM:
        """The Keras model, loaded when the first check needs it."""
        if self._model is None:
            self._model = CausalLM.from_pretrained(self.artifact.model_dir, dtype="float32")
            config = self._model.config
            cases = make_cases(config.vocabulary_size, config.context_length)
            self._answers = [answer(self._model, case) for case in cases]
        return self._model

    def check_lossless_onnx(self, artifact: Artifact, name: str = "fp32") -> Iterator[dict]:
        """A float32 ONNX file gives Keras's numbers in every case."""
        if name in artifact.files:
            session = _session(artifact.files[name])
            yield self._compare(name, lambda case: _run_onnx(session, case, artifact))

    def check_portable_onnx(self, artifact: Artifact) -> Iterator[dict]:
        """So does the file of standard operators."""
        yield from self.check_lossless_onnx(artifact, "portable")

    def check_half_onnx(self, artifact: Artifact) -> Iterator[dict]:
        """The float16 ONNX file gives Keras's numbers within its rounding, and predicts what Keras does."""
        if "fp16" in artifact.files:
            session = _session(artifact.files["fp16"])
            yield self._compare("fp16", lambda case: _run_onnx(session, case, artifact))
            yield self._compare_predictions("fp16", session)

    def check_saved_model(self, artifact: Artifact) -> Iterator[dict]:
        """The SavedModel gives Keras's numbers through both of its signatures."""
        if "saved_model" in artifact.files:
            import tensorflow as tf

            loaded = tf.saved_model.load(str(artifact.files["saved_model"]))
            yield self._compare("saved_model", lambda case: _run_saved_model(loaded, case, artifact))

    def check_quantized_onnx(self, artifact: Artifact) -> Iterator[dict]:
        """Quantized ONNX files give the numbers of Keras with their weights, and predict what Keras does."""
        for precision, path in artifact.files.items():
            if precision in artifact.plans:
                yield self._compare_rounded(precision, artifact)
                yield self._compare_predictions(precision, _session(path))

    def check_generation(self, artifact: Artifact) -> Iterator[dict]:
        """A session opens the finished directory, and Keras would have chosen each of its greedy tokens."""
        for precision in artifact.recipe.precisions:
            yield self._compare_generation(precision)

    def _compare(self, name: str, run) -> dict:
        assert self.model is not None  # the answers come with it
        tolerance = TOLERANCES[name]
        cases = _compare_cases(name, run, self._answers, tolerance)
        return {
            "artifact": name,
            "kind": "lossless",
            "tolerance": tolerance,
            "max_relative_difference": max(cases.values()),
            "cases": cases,
        }

    def _compare_rounded(self, precision: str, artifact: Artifact) -> dict:
        session = float_products_session(artifact.files[precision])
        model = self.model
        with weights_of_file(model, artifact, precision) as changes:
            _check_changes(precision, changes)
            answers = [answer(model, expected.case) for expected in self._answers]
        cases = _compare_cases(precision, lambda case: _run_onnx(session, case, artifact), answers, LOSSLESS)
        worst = max(cases.values())
        return {
            "artifact": precision,
            "kind": "rounded",
            "tolerance": LOSSLESS,
            "max_relative_difference": worst,
            "largest_change_of_a_weight": max(changes.values()),
        }

    def _compare_predictions(self, precision: str, session) -> dict:
        """Rounding is judged on text that was given; what the model writes by itself is only reported on."""
        given = self.artifact.recipe.verification_tokens is not None

        def predict(rows: np.ndarray) -> np.ndarray:
            return _run_onnx(session, _whole(rows), self.artifact)["logits"]

        agreement = measure_agreement(self.model, predict, self._verification_tokens())
        limits = QUANTIZED[precision] if given else {}
        _check_limits(precision, agreement, limits)
        return {"artifact": precision, "kind": "quantized", "limits": limits, **agreement.to_dict()}

    def _compare_generation(self, precision: str) -> dict:
        from tfgpt.serving import Session

        config = self.model.config
        new_tokens = min(GENERATED_TOKENS, config.context_length - 1)
        lengths = (1, 3, 6, 8)
        prompts = np.random.default_rng(1).integers(0, config.vocabulary_size, (len(lengths), max(lengths)))
        room = config.context_length - new_tokens
        prompts = [row[: min(length, room)].tolist() for row, length in zip(prompts, lengths, strict=True)]
        options = GenerationOptions(max_new_tokens=new_tokens, end_of_text_ids=())
        results = Session.open(self.artifact.output, precision=precision).generate(prompts, options)
        equal, total = 0, 0
        for result in results:
            agreed = _keras_agrees(self.model, result.prompt_ids, result.token_ids)
            equal, total = equal + int(agreed.sum()), total + len(agreed)
            if precision == "fp32" and not agreed.all():
                raise VerificationError(
                    f"fp32: greedy token {int(np.argmin(agreed))} after a prompt of {len(result.prompt_ids)} "
                    "is not the one that Keras chooses"
                )
        return {"artifact": precision, "kind": "generation", "greedy_tokens": total, "chosen_by_keras": equal}

    def _verification_tokens(self) -> np.ndarray:
        given = self.artifact.recipe.verification_tokens
        return sample_text(self.model) if given is None else np.asarray(given, np.int64)


def sample_text(model: CausalLM, rows: int = 4, length: int = 48) -> np.ndarray:
    """Text of the model's own, drawn at temperature 1: int64 `[rows, length]`."""
    length = min(length, model.config.context_length)
    first = np.random.default_rng(2).integers(0, model.config.vocabulary_size, rows)
    options = GenerationOptions(
        max_new_tokens=length - 1, temperature=1.0, seed=list(range(rows)), end_of_text_ids=()
    )
    results = model.generate([[int(token)] for token in first], options)
    return np.array([[*result.prompt_ids, *result.token_ids] for result in results])


def _keras_agrees(model: CausalLM, prompt_ids, token_ids) -> np.ndarray:
    """bool `[new]`: whether each new token has Keras's largest logit, up to the tolerance of a tie."""
    ids = np.array([[*prompt_ids, *token_ids]])
    logits = np.asarray(model(ids, training=False))[0, len(prompt_ids) - 1 : -1]
    chosen = np.take_along_axis(logits, np.array(token_ids)[:, None], axis=1)[:, 0]
    return logits.max(axis=1) - chosen <= LOSSLESS * np.maximum(1.0, np.abs(logits).max(axis=1))


def _compare_cases(name: str, run, answers: list[Answer], tolerance: float) -> dict[str, float]:
    """The largest difference of each case, by its name; raises at the first that is too large."""
    cases = {}
    for expected in answers:
        found = run(expected.case)
        cases[expected.case.name] = max(
            _check_close(name, expected.case, tensor, found[tensor], wanted, tolerance)
            for tensor, wanted in expected.tensors.items()
        )
    return cases


def _check_close(
    name: str, case: Case, tensor: str, found: np.ndarray, wanted: np.ndarray, tolerance: float = LOSSLESS
) -> float:
    """The largest difference relative to the size of the tensor; raises when too large, or NaN."""
    if found.shape != wanted.shape:
        raise VerificationError(
            f"{name}: {tensor} has shape {list(found.shape)}, Keras gives {list(wanted.shape)} ({case.name})"
        )
    found, wanted = real_part(tensor, found, case.mask), real_part(tensor, wanted, case.mask)
    difference = float(np.max(np.abs(found - wanted)) / max(1.0, float(np.max(np.abs(wanted)))))
    if not difference <= tolerance:
        raise VerificationError(
            f"{name}: {tensor} is the first tensor that differs from Keras, by {difference:.3g} where "
            f"{tolerance:g} is allowed ({case.name})"
        )
    return difference


def _check_changes(precision: str, changes: dict[str, float]) -> None:
    for name, change in changes.items():
        if not change <= WEIGHT_CHANGE[precision]:
            raise VerificationError(
                f"{precision}: rounding changed {name} by {change:.3g} of its size, expected at most "
                f"{WEIGHT_CHANGE[precision]:g}"
            )


def _check_limits(name: str, agreement: Agreement, limits: dict[str, float]) -> None:
    for measure, limit in limits.items():
        value = abs(getattr(agreement, measure))
        if not value <= limit:
            raise VerificationError(
                f"{name}: {measure.replace('_', ' ')} against Keras is {value:.3g}, "
                f"expected at most {limit:g}"
            )


def _session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _whole(token_ids: np.ndarray) -> Case:
    return Case("text", token_ids, np.ones_like(token_ids), (token_ids.shape[1],))


def _run_onnx(session, case: Case, artifact: Artifact) -> dict[str, np.ndarray]:
    """Feeds a case piece by piece, outputs becoming inputs by their place in the contract."""
    config, names = artifact.config, [tensor.name for tensor in signature.outputs(artifact.config)]
    shape = (case.token_ids.shape[0], config.num_key_value_heads, 0, config.head_dim)
    half = session.get_inputs()[-1].type == "tensor(float16)"
    empty = np.zeros(shape, np.float16 if half else np.float32)
    pasts = {tensor.name: empty for tensor in signature.past_tensors(config)}
    logits, start, found = [], 0, {}
    for end in case.ends:
        feeds = {
            "input_ids": case.token_ids[:, start:end],
            "attention_mask": case.mask[:, :end],
            "position_ids": case.positions[:, start:end],
        }
        found = dict(zip(names, session.run(names, feeds | pasts), strict=True))
        pasts = dict(zip(pasts, list(found.values())[1:], strict=True))
        logits.append(found["logits"])
        start = end
    found["logits"] = np.concatenate(logits, axis=1)
    return {name: tensor.astype(np.float32, copy=False) for name, tensor in found.items()}


def _run_saved_model(loaded, case: Case, artifact: Artifact) -> dict[str, np.ndarray]:
    """The prefill and the pieces through `cached_step`; the whole through `serving_default` must agree."""
    import tensorflow as tf

    config = artifact.config
    shape = (config.num_layers, case.token_ids.shape[0], config.num_key_value_heads, 0, config.head_dim)
    keys = values = tf.zeros(shape)
    logits, start = [], 0
    step = loaded.signatures["cached_step"]
    for end in case.ends:
        ids, mask = tf.constant(case.token_ids[:, start:end]), tf.constant(case.mask[:, :end])
        found = step(input_ids=ids, attention_mask=mask, past_keys=keys, past_values=values)
        keys, values = found["present_keys"], found["present_values"]
        logits.append(found["logits"].numpy())
        start = end
    whole = loaded.signatures["serving_default"](
        input_ids=tf.constant(case.token_ids), attention_mask=tf.constant(case.mask)
    )["logits"].numpy()
    stepped = np.concatenate(logits, axis=1)
    _check_close("saved_model serving_default", case, "logits", whole, stepped)
    names = [tensor.name for tensor in signature.present_tensors(config)]
    caches = [part for pair in zip(keys.numpy(), values.numpy(), strict=True) for part in pair]
    return {**dict(zip(names, caches, strict=True)), "logits": stepped}
