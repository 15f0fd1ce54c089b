"""How far a model's predictions are from Keras's, on text. NumPy only."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tfgpt_export.tolerances import DECIDED_MARGIN

# int64 `[rows, length]` token ids -> `[rows, length, vocabulary]` logits.
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """Means over all positions of the text.

    Attributes:
        positions: how many predictions were compared.
        max_logit_difference, mean_logit_difference: absolute.
        top1_agreement: share of positions where both prefer the same token.
        decided_disagreement: share of other choices where Keras's preference is at least `DECIDED_MARGIN`.
        kl_divergence: KL(Keras || artifact) in nats.
        perplexity, reference_perplexity: of the artifact and of Keras on the text.
        perplexity_change: their relative difference.
    """

    positions: int
    max_logit_difference: float
    mean_logit_difference: float
    top1_agreement: float
    decided_disagreement: float
    kl_divergence: float
    perplexity: float
    reference_perplexity: float
    perplexity_change: float

    def to_dict(self) -> dict:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def measure_agreement(
    model: Callable, predict: Predict, token_ids: np.ndarray, rows_at_once: int = 1
) -> Agreement:
    """Compares two models on text.

    Args:
        model: the Keras model.
        predict: the other one.
        token_ids: int64 `[rows, length]`.
        rows_at_once: how many rows of logits may be in memory, of each model.
    """
    return summarize(
        _compare_row(wanted, found, row)
        for batch in batches(token_ids, rows_at_once)
        for wanted, found, row in zip(logits_of(model, batch), predict(batch), batch, strict=True)
    )


def batches(token_ids: np.ndarray, rows_at_once: int) -> Iterator[np.ndarray]:
    """int64 `[rows_at_once or fewer, length]`, in order."""
    for start in range(0, len(token_ids), rows_at_once):
        yield np.asarray(token_ids[start : start + rows_at_once], np.int64)


def logits_of(model: Callable, token_ids: np.ndarray) -> np.ndarray:
    """What a Keras model gives for int64 `[rows, length]`: float32 `[rows, length, vocabulary]`."""
    return np.asarray(model(token_ids, training=False))


def summarize(rows) -> Agreement:
    """Joins what each row gave: float arrays with one number for each prediction, by name."""
    rows = list(rows)
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    perplexity = float(np.exp(joined["loss"].mean()))
    reference = float(np.exp(joined["reference_loss"].mean()))
    decided = joined["margin"] >= DECIDED_MARGIN
    return Agreement(
        positions=len(joined["same"]),
        max_logit_difference=float(joined["largest"].max()),
        mean_logit_difference=float(joined["mean"].mean()),
        top1_agreement=float(joined["same"].mean()),
        decided_disagreement=float((~joined["same"][decided]).mean()) if decided.any() else 0.0,
        kl_divergence=float(joined["divergence"].mean()),
        perplexity=perplexity,
        reference_perplexity=reference,
        perplexity_change=perplexity / reference - 1.0,
    )


def _compare_row(wanted: np.ndarray, found: np.ndarray, token_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers at every position that has a next token, float64 `[length - 1]` each."""
    wanted, found, targets = wanted[:-1], found[:-1], token_ids[1:, None]
    expected, given = log_softmax(wanted), log_softmax(found)
    best_two = np.partition(expected, -2, axis=1)[:, -2:]
    difference = np.abs(found - wanted)
    return {
        "largest": difference.max(axis=1),
        "mean": difference.mean(axis=1),
        "same": found.argmax(axis=1) == wanted.argmax(axis=1),
        "margin": best_two[:, 1] - best_two[:, 0],
        "divergence": (np.exp(expected) * (expected - given)).sum(axis=1),
        "loss": -np.take_along_axis(given, targets, axis=1)[:, 0],
        "reference_loss": -np.take_along_axis(expected, targets, axis=1)[:, 0],
    }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Float64 natural logarithms of probabilities, over the last axis."""
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
