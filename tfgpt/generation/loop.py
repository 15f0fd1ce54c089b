"""The one generate loop, over anything that can prefill and step. NumPy only.

        prompts -> ids -> left padding -> prefill -> logits of the last column  [batch, vocabulary]
                                            |
            +-------------------------------+------------------+
            v                                                  |
        for each row: filters, draw, text, stop?  -> rows that go on -> step

Every row is decided by itself: its logits, its tokens, its seed and its count of new tokens. A batch changes
nothing but the speed, as far as the decoder's arithmetic is independent of the batch.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.padding import left_pad
from tfgpt.generation.row import Generation, Row, make_rows

OnToken = Callable[[int, int, str], None]


class Decoder(Protocol):
    """A model with its cache. Returned logits may be reused by the next call: read them before it."""

    vocabulary_size: int
    context_length: int

    def prefill(self, token_ids: np.ndarray, mask: np.ndarray, capacity: int) -> np.ndarray:
        """Starts anew with a batch of left-padded prompts.

        Args:
            token_ids, mask: int64 [batch, length], the mask 1 at tokens; the last column has no padding.
            capacity: the most columns, prompt and new tokens, that this batch can come to have.

        Returns:
            Logits after the last column, float [batch, vocabulary].
        """

    def step(self, token_ids: np.ndarray) -> np.ndarray:
        """Appends one token to each row held: int64 [batch] -> float [batch, vocabulary]."""

    def keep(self, rows: np.ndarray) -> np.ndarray:
        """Only these rows are still needed; the decoder may drop others and change their order.

        Args:
            rows: int [needed], ascending places among the rows held.

        Returns:
            int [held], for each row that is held from now on its place before.
        """


def generate(
    decoder: Decoder,
    prompts,
    options: GenerationOptions | None = None,
    tokenizer=None,
    on_token: OnToken | None = None,
) -> list[Generation]:
    """Generates a continuation of each prompt.

    Args:
        decoder: the model.
        prompts: a string, token ids, or a list of strings or of token ids.
        options: greedy and 64 new tokens by default.
        tokenizer: with `encode`, `end_of_text_id` and `stream_decoder`; needed for text only.
        on_token: called as `on_token(row, token_id, text_piece)` for every new token, in time. The pieces of
            a row joined are its final text; what may be the beginning of a stop string, or of a character of
            several bytes, comes with a later token.

    Returns:
        One Generation for each prompt, in order.

    Raises:
        InputError: for a prompt that is too long, empty without an end-of-text id, or holds an id outside
            the vocabulary; for text or stop strings without a tokenizer; for seeds of another count.
        FloatingPointError: when the model gives no finite logits.
    """
    options = options or GenerationOptions()
    if options.prompt_logprobs:
        raise InputError(
            "found prompt_logprobs for a model that gives the last token's logits alone, expected an export "
            "with an engine graph (onnx/engine*.onnx); export the model again and open a session on it"
        )
    rows = make_rows(prompts, options, tokenizer, decoder.vocabulary_size, decoder.context_length)
    if not rows:
        return []
    token_ids, mask = left_pad([row.prompt for row in rows])  # [batch, length]
    logits = decoder.prefill(token_ids, mask, token_ids.shape[1] + max(row.limit for row in rows))
    held = rows
    while True:
        for place, row in enumerate(held):
            if row.finish_reason is None:
                _advance(row, logits[place], on_token)
        going = [place for place, row in enumerate(held) if row.finish_reason is None]
        if not going:
            return [row.generation() for row in rows]
        if len(going) < len(held):
            held = [held[place] for place in decoder.keep(np.array(going))]
        logits = decoder.step(np.array([row.token_ids[-1] for row in held], np.int64))  # [batch, vocabulary]


def _advance(row: Row, logits: np.ndarray, on_token: OnToken | None) -> None:
    token_id, piece = row.advance(logits)
    if on_token is not None:
        on_token(row.index, token_id, piece)
