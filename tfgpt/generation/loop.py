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
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.padding import left_pad
from tfgpt.generation.prompts import prompt_token_ids
from tfgpt.generation.samplers import Sampler, log_probability
from tfgpt.generation.stopping import RowText

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


@dataclass(frozen=True)
class Generation:
    """One prompt's result.

    Attributes:
        prompt_ids: the prompt's token ids.
        token_ids: the new tokens, with the end-of-text id that ended them, if one did, and all tokens of a
            stop string.
        text: the text of the new tokens, without end-of-text and before the stop string; None without a
            tokenizer.
        finish_reason: "stop" for an end-of-text id or a stop string, "length" for max_new_tokens or a full
            context.
        logprobs: natural logarithms of the new tokens' probabilities, or None when not asked for.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str | None
    finish_reason: str
    logprobs: tuple[float, ...] | None = None


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
    if options.stop and tokenizer is None:
        raise InputError(
            "found stop strings but no tokenizer, expected token ids to end on; pass a tokenizer"
        )
    ends = _end_of_text_ids(options, tokenizer)
    ids = prompt_token_ids(prompts, tokenizer, ends, decoder.vocabulary_size, decoder.context_length)
    if not ids:
        return []
    sampler = Sampler(options)
    rows = [
        _Row(row, prompt, seed, _limit(prompt, options, decoder), RowText(tokenizer, options.stop))
        for row, (prompt, seed) in enumerate(zip(ids, options.row_seeds(len(ids)), strict=True))
    ]
    token_ids, mask = left_pad(ids)  # [batch, length]
    logits = decoder.prefill(token_ids, mask, token_ids.shape[1] + max(row.limit for row in rows))
    held = rows
    while True:
        for place, row in enumerate(held):
            if row.finish_reason is None:
                row.advance(logits[place], sampler, ends, options.logprobs, on_token)
        going = [place for place, row in enumerate(held) if row.finish_reason is None]
        if not going:
            return [row.generation(options.logprobs) for row in rows]
        if len(going) < len(held):
            held = [held[place] for place in decoder.keep(np.array(going))]
        logits = decoder.step(np.array([row.token_ids[-1] for row in held], np.int64))  # [batch, vocabulary]


class _Row:
    """One prompt while its text grows."""

    def __init__(self, index: int, prompt: list[int], seed: int, limit: int, text: RowText):
        self.index = index
        self.prompt = prompt
        self.seed = seed
        self.limit = limit
        self.text = text
        self.token_ids = list(prompt)
        self.logprobs: list[float] = []
        self.finish_reason: str | None = None

    def advance(self, logits, sampler: Sampler, ends, with_logprobs: bool, on_token: OnToken | None) -> None:
        """Chooses the next token from logits [vocabulary] and decides whether it is the last."""
        logits = np.asarray(logits, np.float32)
        position = len(self.token_ids) - len(self.prompt)
        # NaN is larger than every number to `max`, so one look finds it.
        if not np.isfinite(logits.max()):
            raise FloatingPointError(
                f"found NaN or infinite logits for prompt {self.index} at new token {position}, expected "
                "finite ones; are the weights damaged, or too large for the precision?"
            )
        token_id = sampler(logits, np.asarray(self.token_ids), self.seed, position)
        if with_logprobs:
            self.logprobs.append(log_probability(logits, token_id))
        self.token_ids.append(token_id)
        piece = self._decide(token_id, position + 1, ends)
        if on_token is not None:
            on_token(self.index, token_id, piece)

    def _decide(self, token_id: int, num_new: int, ends) -> str:
        if token_id in ends:
            piece = self.text.finish()
            self.finish_reason = "stop"
            return piece
        piece = self.text.push(token_id)
        if not self.text.stopped and num_new >= self.limit:
            piece += self.text.finish()
            self.finish_reason = "length"
        if self.text.stopped:
            self.finish_reason = "stop"
        return piece

    def generation(self, with_logprobs: bool) -> Generation:
        return Generation(
            prompt_ids=tuple(self.prompt),
            token_ids=tuple(self.token_ids[len(self.prompt) :]),
            text=self.text.text,
            finish_reason=self.finish_reason,
            logprobs=tuple(self.logprobs) if with_logprobs else None,
        )


def _end_of_text_ids(options: GenerationOptions, tokenizer) -> tuple[int, ...]:
    if options.end_of_text_ids is not None:
        return options.end_of_text_ids
    end = getattr(tokenizer, "end_of_text_id", None)
    return () if end is None else (int(end),)


def _limit(prompt: list[int], options: GenerationOptions, decoder: Decoder) -> int:
    return min(options.max_new_tokens, decoder.context_length - len(prompt))
