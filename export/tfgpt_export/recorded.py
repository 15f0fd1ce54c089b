"""Keras's answers, small enough to travel with the export: what a machine without TensorFlow goes by.

A whole answer is large (GPT-2's logits are 200 kB for each token), so what is kept of a tensor are its sums
with random signs, divided by the square root of its width: a difference of typical size d in the numbers of a
token is a difference of typical size d in each of its sums, wherever in the row it stands. Of the predictions
on text the likeliest tokens, the next token and the sum over the vocabulary are kept: first choices, margins
and perplexities are exact, and the KL divergence, all other tokens taken together as one, is a lower bound of
the whole one (data processing inequality, Cover & Thomas, Elements of Information Theory, section 2.8).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfgpt_export.agreement import Agreement, Predict, batches, log_softmax, logits_of, summarize
from tfgpt_export.reference import Answer, Case, real_part

NUM_SUMS = 4
NUM_LIKELIEST = 8
MOST_POSITIONS = 2048
ROWS_AT_ONCE = 4


def random_signs(width: int, seed: int) -> np.ndarray:
    """int8 `[NUM_SUMS, width]` of 1 and -1."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (NUM_SUMS, width))


def signed_sums(tensor: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The sums of each row's numbers with each set of signs: `[rows, ...]` -> float32 `[rows, NUM_SUMS]`."""
    rows = tensor.reshape(len(tensor), -1).astype(np.float64)
    return (rows @ signs.T.astype(np.float64) / np.sqrt(rows.shape[1])).astype(np.float32)


@dataclass(frozen=True)
class RecordedAnswer:
    """Keras's outputs on one case, each as its sums with signs.

    Args:
        case: what was asked.
        sums: tensor name -> float32 `[real tokens, NUM_SUMS]`, in the order in which the model makes them.
        sizes: tensor name -> its largest absolute number.
        signs: tensor name -> int8 `[NUM_SUMS, width]`.
    """

    case: Case
    sums: dict[str, np.ndarray]
    sizes: dict[str, float]
    signs: dict[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        """The tensors, in the order in which the model makes them."""
        return list(self.sums)

    def shape_difference(self, name: str, found: np.ndarray) -> str | None:
        """What is wrong with a tensor's shape; `None` when nothing is."""
        slots = found.shape[1] if name == "logits" else found.shape[2]
        sizes = (found.shape[0], slots, found.size // max(1, found.shape[0] * slots))
        wanted = (*self.case.mask.shape, self.signs[name].shape[1])
        if sizes == wanted:
            return None
        rows, slots, width = wanted
        return f"has shape {list(found.shape)}, Keras gives {rows} rows of {slots} tokens of {width} numbers"

    def difference(self, name: str, found: np.ndarray) -> float:
        """The largest difference of a sum, relative to the size of the tensor."""
        found = signed_sums(real_part(name, found, self.case.mask), self.signs[name])
        return float(np.max(np.abs(found - self.sums[name])) / max(1.0, self.sizes[name]))


def record_answer(whole: Answer, signs: Callable[[str, int], np.ndarray]) -> RecordedAnswer:
    """Keeps of an answer what travels; `signs(name, width)` are those of a tensor."""
    sums, sizes, used = {}, {}, {}
    for name, tensor in whole.tensors.items():
        real = real_part(name, tensor, whole.case.mask)
        used[name] = signs(name, real[0].size)
        sums[name], sizes[name] = signed_sums(real, used[name]), float(np.max(np.abs(real)))
    return RecordedAnswer(whole.case, sums, sizes, used)


@dataclass(frozen=True)
class RecordedText:
    """Keras's predictions on text.

    Args:
        token_ids: int `[rows, length]`.
        likeliest, likeliest_logits: `[rows, length - 1, NUM_LIKELIEST]`, the first being Keras's choice.
        target_logits, log_sums: float64 `[rows, length - 1]`: of the token that comes next, and the logarithm
            of the sum of the exponentials of all.
    """

    token_ids: np.ndarray
    likeliest: np.ndarray
    likeliest_logits: np.ndarray
    target_logits: np.ndarray
    log_sums: np.ndarray

    def agreement(self, predict: Predict) -> Agreement:
        """Compares another model's predictions; logits are compared where they are recorded."""
        texts = batches(self.token_ids, ROWS_AT_ONCE)
        found = (logits for text in texts for logits in predict(text))
        return summarize(self._compare_row(row, logits) for row, logits in enumerate(found))

    def _compare_row(self, row: int, found: np.ndarray) -> dict[str, np.ndarray]:
        ids, found = self.token_ids[row].astype(np.int64), found[:-1]  # [length - 1, vocabulary]
        wanted, likeliest = self.likeliest_logits[row].astype(np.float64), self.likeliest[row]
        given = log_softmax(found)
        expected = wanted - self.log_sums[row][:, None]
        difference = np.abs(np.take_along_axis(found, likeliest, axis=1) - wanted)
        return {
            "largest": difference.max(axis=1),
            "mean": difference.mean(axis=1),
            "same": found.argmax(axis=1) == likeliest[:, 0],
            "margin": expected[:, 0] - expected[:, 1],
            "divergence": _divergence(expected, np.take_along_axis(given, likeliest, axis=1)),
            "loss": -np.take_along_axis(given, ids[1:, None], axis=1)[:, 0],
            "reference_loss": self.log_sums[row] - self.target_logits[row],
        }


def record_text(model: Callable, token_ids: np.ndarray, rows_at_once: int = 1) -> RecordedText:
    """Keras's predictions on as many rows as may travel."""
    token_ids = np.asarray(token_ids)[: max(1, MOST_POSITIONS // token_ids.shape[1])]
    parts: dict[str, list] = {"likeliest": [], "logits": [], "targets": [], "sums": []}
    logits_by_row = (row for batch in batches(token_ids, rows_at_once) for row in logits_of(model, batch))
    for row, whole in zip(token_ids, logits_by_row, strict=True):
        logits = whole[:-1].astype(np.float64)
        kept = min(NUM_LIKELIEST, logits.shape[1])
        likeliest = np.argsort(-logits, axis=1, kind="stable")[:, :kept]
        parts["likeliest"].append(likeliest.astype(np.int32))
        parts["logits"].append(np.take_along_axis(logits, likeliest, axis=1))
        parts["targets"].append(np.take_along_axis(logits, row[1:, None], axis=1)[:, 0])
        parts["sums"].append(logits[:, 0] - log_softmax(logits)[:, 0])
    likeliest, logits, targets, sums = (np.stack(part) for part in parts.values())
    return RecordedText(token_ids.astype(np.int32), likeliest, logits.astype(np.float32), targets, sums)


def _divergence(expected: np.ndarray, given: np.ndarray) -> np.ndarray:
    """KL of two distributions known on a few tokens, the rest being one: logarithms `[positions, few]`."""
    probabilities = np.exp(expected)
    rest = np.clip(1.0 - probabilities.sum(axis=1), 1e-9, 1.0)
    rest_given = np.clip(1.0 - np.exp(given).sum(axis=1), 1e-9, 1.0)
    return (probabilities * (expected - given)).sum(axis=1) + rest * np.log(rest / rest_given)
