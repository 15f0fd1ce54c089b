"""Greedy tokens on many prompts: what Keras chooses, how sure it is, where an artifact leaves it. NumPy only.

After its first other token a row is another text, so only tokens up to there are compared. Where Keras's two
best logits are a tie within rounding, another choice says nothing; where it prefers its own by a margin, it
does.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfgpt.generation.loop import Generation, generate
from tfgpt.generation.options import GenerationOptions
from tfgpt_export.tolerances import DECIDED_MARGIN, LOSSLESS

Run = Callable[[list[list[int]], GenerationOptions], list[Generation]]

NEW_TOKENS = 16
LONGEST_PROMPT = 12
MOST_PROMPTS, FEWEST_PROMPTS = 256, 16
# Multiplications and additions for one side: about half a minute on two cores.
AFFORDABLE_OPERATIONS = 1.5e12
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class GreedyReference:
    """What Keras continues prompts with.

    Args:
        prompts: token ids, of several lengths.
        token_ids: int32 `[prompts, new]`.
        margins: float32 `[prompts, new]`: the logit of each choice above the second best.
        sizes: float32 `[prompts, new]`: the largest absolute logit there.
    """

    prompts: list[list[int]]
    token_ids: np.ndarray
    margins: np.ndarray
    sizes: np.ndarray


def num_prompts(num_parameters: int) -> int:
    """As many prompts as their cost allows: 256, and fewer for models of more than 100 million weights."""
    affordable = AFFORDABLE_OPERATIONS / (2.0 * num_parameters * (LONGEST_PROMPT + NEW_TOKENS))
    return int(np.clip(affordable, FEWEST_PROMPTS, MOST_PROMPTS))


def choose_prompts(text: np.ndarray, number: int, context_length: int) -> list[list[int]]:
    """Pieces of a text, int `[rows, length]`: spread over it, from 1 to `LONGEST_PROMPT` tokens long."""
    longest = max(1, min(LONGEST_PROMPT, text.shape[1], context_length - 1))
    starts_per_row = text.shape[1] - longest + 1
    places = np.unique(np.linspace(0, text.shape[0] * starts_per_row - 1, number).astype(int))
    prompts = []
    for count, place in enumerate(places):
        row, start = divmod(int(place), starts_per_row)
        length = 1 + count % longest
        prompts.append([int(token) for token in text[row, start : start + length]])
    return prompts


def num_new_tokens(prompts: list[list[int]], context_length: int) -> int:
    """As many new tokens as every prompt has room for."""
    return max(1, min(NEW_TOKENS, context_length - max(map(len, prompts))))


def greedy_tokens(run: Run, prompts: list[list[int]], num_new: int) -> np.ndarray:
    """int32 `[prompts, new]`: the continuations by `run(prompts, options)`, many rows at once."""
    options = GenerationOptions(max_new_tokens=num_new, end_of_text_ids=())
    results = []
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        results += run(prompts[start : start + ROWS_AT_ONCE], options)
    return np.array([result.token_ids for result in results], np.int32)


def record_greedy(decoder, prompts: list[list[int]], num_new: int) -> GreedyReference:
    """Runs Keras's decoder, noting how sure it is of each token."""
    watching = _Watching(decoder)
    token_ids = greedy_tokens(functools.partial(generate, watching), prompts, num_new)
    # Every batch gives a prefill and its steps, each for all of its rows: none ends early.
    batches = [watching.seen[start : start + num_new] for start in range(0, len(watching.seen), num_new)]
    margins, sizes = np.concatenate([np.stack(batch, axis=1) for batch in batches]).transpose(2, 0, 1)
    return GreedyReference(prompts, token_ids, margins, sizes)


class _Watching:
    """A decoder that keeps the best logits' margin and size: float32 `[rows, 2]` for every call."""

    def __init__(self, decoder):
        self.vocabulary_size, self.context_length = decoder.vocabulary_size, decoder.context_length
        self.seen: list[np.ndarray] = []
        self._decoder = decoder
        self.keep = decoder.keep

    def prefill(self, token_ids, mask, capacity):
        return self._watched(self._decoder.prefill(token_ids, mask, capacity))

    def step(self, token_ids):
        return self._watched(self._decoder.step(token_ids))

    def _watched(self, logits: np.ndarray) -> np.ndarray:
        best = np.partition(logits, -2, axis=1)[:, -2:] if logits.shape[1] > 1 else np.repeat(logits, 2, 1)
        sizes = np.abs(logits).max(axis=1)
        self.seen.append(np.stack([best[:, 1] - best[:, 0], sizes], axis=1).astype(np.float32))
        return logits


def compare_greedy(name: str, reference: GreedyReference, found: np.ndarray, limit: float | None) -> dict:
    """An entry for the report, with what is wrong.

    Args:
        name: of the artifact, or of the client.
        found: int `[prompts, new]`.
        limit: share of Keras's decided tokens that may differ; `None`: no token may, but at a tie.
    """
    if found.shape != reference.token_ids.shape:
        failure = f"{name}: {list(found.shape)} greedy tokens, expected {list(reference.token_ids.shape)}"
        return {"artifact": name, "kind": "generation", "failures": [failure]}
    num_new = found.shape[1]
    equal = found == reference.token_ids
    first = np.where(equal.all(axis=1), num_new, np.argmin(equal, axis=1))  # [prompts]
    until = np.arange(num_new)[None] <= first[:, None]  # the first other token is compared as well
    decided = until & (reference.margins >= DECIDED_MARGIN)
    wrong = decided & ~equal
    share = float(wrong.sum() / max(1, decided.sum()))
    ties = reference.margins <= LOSSLESS * np.maximum(1.0, reference.sizes)
    wrong = until & ~equal & ~ties if limit is None else wrong
    failures = []
    if (limit is None and wrong.any()) or (limit is not None and not share <= limit):
        failures.append(_first_wrong(name, reference, found, wrong, share, limit))
    agreed = np.arange(num_new)[None] < first[:, None]
    return {
        "artifact": name,
        "kind": "generation",
        "failures": failures,
        "prompts": len(found),
        "greedy_tokens": int(found.size),
        "chosen_by_keras": int(agreed.sum()),
        "equal_share": float(agreed.mean()),
        "equal_prompts": int((first == num_new).sum()),
        "ties": int((until & ~equal & ties).sum()),
        "decided_disagreement": share,
        "limit": limit,
        # How many prompts first differ at each new token; the last number: those that never do.
        "first_divergence": np.bincount(first, minlength=num_new + 1).tolist(),
    }


def _first_wrong(name, reference, found, wrong, share: float, limit: float | None) -> str:
    row, place = (int(each) for each in np.argwhere(wrong)[0])
    line = (
        f"{name}: greedy token {place} after a prompt of {len(reference.prompts[row])} is "
        f"{found[row, place]}, Keras chooses {reference.token_ids[row, place]} and prefers it by "
        f"{reference.margins[row, place]:.3g}"
    )
    if limit is None:
        return line
    return f"{line}; {share:.2%} of its decided tokens differ, expected at most {limit:.2%}"
