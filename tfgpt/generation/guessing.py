"""Guessing what comes next by looking the last tokens up in the text so far. NumPy only.

Text repeats itself: names, phrases, code, a document that is summed up. What followed the last tokens when
they stood there before is a good guess of what follows now; a model checks k guesses in one run, which costs
little more than computing one token. This is speculative decoding (Leviathan et al. 2023, arXiv 2211.17192)
without a model that drafts: prompt lookup decoding (Saxena 2023; transformers'
PromptLookupCandidateGenerator).
"""

from collections.abc import Sequence

import numpy as np

# The longest repetition is looked for first: the longer it is, the better the guess.
LONGEST_NGRAM = 4


def guess(token_ids: Sequence[int], count: int) -> list[int]:
    """At most `count` tokens that followed the most recent earlier place of the last tokens; maybe none."""
    if count <= 0:
        return []
    ids = np.asarray(token_ids)
    for size in range(min(LONGEST_NGRAM, len(ids) - 1), 0, -1):
        # Ends (exclusive) of earlier places where the last `size` tokens stand.
        same = ids[size - 1 : -1] == ids[-1]
        for back in range(1, size):
            same &= ids[size - 1 - back : len(ids) - 1 - back] == ids[-1 - back]
        places = np.flatnonzero(same)
        if len(places):
            start = int(places[-1]) + size
            return _continued(ids, start, count)
    return []


def _continued(ids: np.ndarray, start: int, count: int) -> list[int]:
    """The tokens from `start` on; at the end of the text the guess itself goes on, with the same period."""
    period = len(ids) - start
    return [int(ids[start + place % period]) for place in range(count)]


class GuessLength:
    """How many tokens are worth guessing now: twice as many after all were right, half after none was."""

    def __init__(self, most: int):
        self.most = most
        self.now = most

    def learn(self, guessed: int, right: int) -> None:
        """Takes notice of one check."""
        if guessed and right == guessed:
            self.now = min(self.most, 2 * self.now)
        elif guessed and not right:
            self.now = max(1, self.now // 2)
