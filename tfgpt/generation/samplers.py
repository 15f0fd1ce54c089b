"""Choosing the next token from logits: small filters, run in a fixed order. NumPy only.

The order is that of transformers' `generate`, so that the same settings mean the same distribution:

    repetition penalty -> [greedy: the largest logit]
    repetition penalty -> temperature -> top-k -> top-p -> min-p -> one draw

A filter takes and returns the logits of one row, float32 [vocabulary]; what it removes becomes -inf.
One row never sees another, and no filter keeps state.

Not covered: typical and eta sampling, beams, n-gram blocking, logit bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfgpt.generation.options import GenerationOptions


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive and multiplies negative logits of tokens seen before by `penalty`.

    Keskar et al. 2019 (CTRL), section 4.1, with the sign rule of transformers' logits processor.
    """

    penalty: float

    def __call__(self, logits: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
        """logits float32 [vocabulary], token_ids ints [seen] -> float32 [vocabulary], a new array."""
        logits = logits.copy()
        # Assignment by index writes each token once, however often it was seen.
        token_ids = np.asarray(token_ids, np.int64)
        seen = logits[token_ids]
        penalty = np.float32(self.penalty)
        logits[token_ids] = np.where(seen < 0, seen * penalty, seen / penalty)
        return logits


@dataclass(frozen=True)
class Temperature:
    """Divides the logits by `temperature`, above 0."""

    temperature: float

    def __call__(self, logits: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
        """logits float32 [vocabulary] -> float32 [vocabulary]; `token_ids` is not used."""
        return logits / np.float32(self.temperature)


@dataclass(frozen=True)
class TopK:
    """Keeps the `k` largest logits, and all that equal the k-th."""

    k: int

    def __call__(self, logits: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
        """logits float32 [vocabulary] -> float32 [vocabulary]; `token_ids` is not used."""
        size = logits.shape[0]
        if self.k >= size:
            return logits
        smallest_kept = np.partition(logits, size - self.k)[size - self.k]
        return np.where(logits < smallest_kept, np.float32(-np.inf), logits)


@dataclass(frozen=True)
class TopP:
    """Keeps each token while the tokens better than it hold less than `p` of the probability.

    The nucleus of Holtzman et al. 2020: the fewest tokens, best first, that reach p; at least one.
    """

    p: float

    def __call__(self, logits: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
        """logits float32 [vocabulary] -> float32 [vocabulary]; `token_ids` is not used."""
        best_first = np.sort(logits[logits > -np.inf])[::-1]  # [candidates]
        mass = np.cumsum(np.exp(best_first - best_first[0]), dtype=np.float64)
        # The first token has nothing better and is always kept.
        num_kept = 1 + np.count_nonzero(mass[:-1] < self.p * mass[-1])
        smallest_kept = best_first[num_kept - 1]
        filtered = np.where(logits < smallest_kept, np.float32(-np.inf), logits)
        # Of several that equal the last one kept, only as many as are needed, the first ones.
        ties = np.flatnonzero(logits == smallest_kept)
        filtered[ties[num_kept - np.count_nonzero(best_first > smallest_kept) :]] = -np.inf
        return filtered


@dataclass(frozen=True)
class MinP:
    """Keeps the tokens whose probability is at least `p` times that of the best."""

    p: float

    def __call__(self, logits: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
        """logits float32 [vocabulary] -> float32 [vocabulary]; `token_ids` is not used."""
        # Relative to the best token the softmax's denominator cancels.
        relative = np.exp(logits - logits.max())
        return np.where(relative < np.float32(self.p), np.float32(-np.inf), logits)


def filters_of(options: GenerationOptions) -> tuple:
    """The filters that `options` asks for, in order; those that would change nothing are left out."""
    filters = []
    if options.repetition_penalty != 1:
        filters.append(RepetitionPenalty(options.repetition_penalty))
    if options.temperature == 0:
        return tuple(filters)
    if options.temperature != 1:
        filters.append(Temperature(options.temperature))
    if options.top_k > 0:
        filters.append(TopK(options.top_k))
    if options.top_p < 1:
        filters.append(TopP(options.top_p))
    if options.min_p > 0:
        filters.append(MinP(options.min_p))
    return tuple(filters)


class Sampler:
    """Chooses one row's next token; the result depends on its arguments alone."""

    def __init__(self, options: GenerationOptions):
        self._filters = filters_of(options)
        self._greedy = options.temperature == 0

    def __call__(self, logits: np.ndarray, token_ids: Sequence[int], seed: int, position: int) -> int:
        """The next token id.

        Args:
            logits: float32 [vocabulary], left as it is.
            token_ids: ints [seen], the row's prompt and new tokens, without padding.
            seed: from 0 to 2**64 - 1.
            position: the number of new tokens that the row has already.
        """
        for keep in self._filters:
            logits = keep(logits, token_ids)
        if self._greedy:
            return int(np.argmax(logits))
        return draw(logits, uniform(seed, position))


def uniform(seed: int, position: int) -> float:
    """A number from [0, 1) that is a function of (seed, position): Philox is counter-based."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def draw(logits: np.ndarray, point: float) -> int:
    """The token at which the cumulated probabilities, in the order of token ids, pass `point` in [0, 1).

    logits: float32 [vocabulary], with -inf for tokens that must not come.
    """
    candidates = np.flatnonzero(logits > -np.inf)  # [candidates]
    values = logits[candidates]
    mass = np.cumsum(np.exp(values - values.max()), dtype=np.float64)
    place = np.searchsorted(mass, point * mass[-1], side="right")
    # Rounding of the product may reach the end of the table.
    return int(candidates[min(place, len(candidates) - 1)])


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """ln softmax(logits), float64 [vocabulary]; logits float32 [vocabulary], unfiltered."""
    shifted = (logits - logits.max()).astype(np.float64)
    return shifted - np.log(np.exp(shifted).sum())


def top_log_probabilities(scores: np.ndarray, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` largest of `log_probabilities`, best first, as (token id, score); equals by token id."""
    count = min(count, len(scores))
    if count == 0:
        return ()
    largest = np.partition(scores, -count)[-count]
    candidates = np.flatnonzero(scores >= largest)
    best = candidates[np.argsort(-scores[candidates], kind="stable")][:count]
    return tuple((int(token_id), float(scores[token_id])) for token_id in best)
