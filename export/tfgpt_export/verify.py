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

# Relative to the largest number of a tensor, or to 1: float32 rounds at 6e-8, sums over some thousand
# products and some dozen layers in another order than Keras lose two to three digits of that. A wrong mask,
# position, scale or layer shows at 1e-2 and above.
LOSSLESS_TOLERANCE = 1e-4
# Rounding weights to 8 bits with a scale for each block changes them by 0.4 % at most; these limits are some
# five times what trained and random models show, and far below what a wrong scale or a swapped block does.
QUANTIZED_LIMITS = {"kl_divergence": 0.01, "perplexity_change": 0.01, "decided_disagreement": 0.02}
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

    def check_lossless_onnx(self, artifact: Artifact) -> Iterator[dict]:
        """The float32 ONNX file gives Keras's numbers in every case."""
        if "fp32" in artifact.files:
            session = _session(artifact.files["fp32"])
            yield self._compare("fp32", lambda case: _run_onnx(session, case, artifact))

    def check_saved_model(self, artifact: Artifact) -> Iterator[dict]:
        """The SavedModel gives Keras's numbers through both of its signatures."""
        if "saved_model" in artifact.files:
            import tensorflow as tf

            loaded = tf.saved_model.load(str(artifact.files["saved_model"]))
            yield self._compare("saved_model", lambda case: _run_saved_model(loaded, case, artifact))

    def check_quantized_onnx(self, artifact: Artifact) -> Iterator[dict]:
        """The int8 ONNX file predicts what Keras predicts."""
        if "int8" not in artifact.files:
            return
        token_ids = self._verification_tokens()
        session = _session(artifact.files["int8"])

        def predict(rows: np.ndarray) -> np.ndarray:
            return _run_onnx(session, _whole(rows), artifact)["logits"]

        agreement = measure_agreement(self.model, predict, token_ids)
        _check_limits("int8", agreement)
        yield {"artifact": "int8", "kind": "quantized", "limits": QUANTIZED_LIMITS, **agreement.to_dict()}

    def check_generation(self, artifact: Artifact) -> Iterator[dict]:
        """A session opens the finished directory, and Keras would have chosen each of its greedy tokens."""
        for precision in (name for name in artifact.files if name != "saved_model"):
            yield self._compare_generation(precision)

    def _compare(self, name: str, run) -> dict:
        assert self.model is not None  # the answers come with it
        worst, cases = 0.0, {}
        for expected in self._answers:
            found = run(expected.case)
            cases[expected.case.name] = max(
                _check_close(name, expected.case, tensor, found[tensor], wanted)
                for tensor, wanted in expected.tensors.items()
            )
            worst = max(worst, cases[expected.case.name])
        return {
            "artifact": name,
            "kind": "lossless",
            "tolerance": LOSSLESS_TOLERANCE,
            "max_relative_difference": worst,
            "cases": cases,
        }

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
    return logits.max(axis=1) - chosen <= LOSSLESS_TOLERANCE * np.maximum(1.0, np.abs(logits).max(axis=1))


def _check_close(name: str, case: Case, tensor: str, found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference relative to the size of the tensor; raises when too large, or NaN."""
    if found.shape != wanted.shape:
        raise VerificationError(
            f"{name}: {tensor} has shape {list(found.shape)}, Keras gives {list(wanted.shape)} ({case.name})"
        )
    found, wanted = real_part(tensor, found, case.mask), real_part(tensor, wanted, case.mask)
    difference = float(np.max(np.abs(found - wanted)) / max(1.0, float(np.max(np.abs(wanted)))))
    if not difference <= LOSSLESS_TOLERANCE:
        raise VerificationError(
            f"{name}: {tensor} is the first tensor that differs from Keras, by {difference:.3g} where "
            f"{LOSSLESS_TOLERANCE:g} is allowed ({case.name})"
        )
    return difference


def _check_limits(name: str, agreement: Agreement) -> None:
    for measure, limit in QUANTIZED_LIMITS.items():
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
    pasts = {tensor.name: np.zeros(shape, np.float32) for tensor in signature.past_tensors(config)}
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
    return {**found, "logits": np.concatenate(logits, axis=1)}


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
