"""One prompt while its text grows: which token comes, when it ends, what is told of it. NumPy only.

Whoever computes logits (the loop over a decoder, or the engine of `tfgpt.serving`) hands them to the row one
position after the other; all decisions are here, and none depends on another row.
"""

from dataclasses import dataclass

import numpy as np

from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.prompts import prompt_token_ids
from tfgpt.generation.samplers import Sampler, log_probabilities, top_log_probabilities
from tfgpt.generation.stopping import RowText

TopLogprobs = tuple[tuple[int, float], ...]


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
        prompt_logprobs: the same of the prompt's tokens, the first of which has None; or None.
        top_logprobs, prompt_top_logprobs: for each of those tokens the most probable ones at its place as
            (token id, natural logarithm), best first; or None. A token that is the most probable has exactly
            the number that stands first here.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str | None
    finish_reason: str
    logprobs: tuple[float, ...] | None = None
    prompt_logprobs: tuple[float | None, ...] | None = None
    top_logprobs: tuple[TopLogprobs, ...] | None = None
    prompt_top_logprobs: tuple[TopLogprobs | None, ...] | None = None


class Row:
    """One prompt while its text grows.

    Attributes:
        token_ids: the prompt and the new tokens.
        finish_reason: "stop" or "length" at the end, None before.
    """

    def __init__(
        self, index: int, prompt: list[int], seed: int, options: GenerationOptions, ends, limit, text
    ):
        self.index = index
        self.prompt = prompt
        self.options = options
        self.limit = limit
        self.token_ids = list(prompt)
        self.finish_reason: str | None = None
        self._seed = seed
        self._ends = ends
        self._text = text
        self._sampler = Sampler(options)
        self._logprobs: list[float] = []
        self._top: list[TopLogprobs] = []
        self._prompt_logprobs: list[float | None] = [None]
        self._prompt_top: list[TopLogprobs | None] = [None]

    @property
    def num_new(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - len(self.prompt)

    def advance(self, logits: np.ndarray) -> tuple[int, str]:
        """Chooses the next token and decides whether it is the last.

        Args:
            logits: float [vocabulary], after all tokens so far.

        Returns:
            the token, and the text that became certain with it.

        Raises:
            FloatingPointError: the logits are not finite.
        """
        logits = np.asarray(logits, np.float32)
        position = self.num_new
        # NaN is larger than every number to `max`, so one look finds it.
        if not np.isfinite(logits.max()):
            raise FloatingPointError(
                f"found NaN or infinite logits for prompt {self.index} at new token {position}, expected "
                "finite ones; are the weights damaged, or too large for the precision?"
            )
        token_id = self._sampler(logits, self.token_ids, self._seed, position)
        if self.options.logprobs or self.options.top_logprobs:
            scores = log_probabilities(logits)
            self._logprobs.append(float(scores[token_id]))
            self._top.append(top_log_probabilities(scores, self.options.top_logprobs))
        self.token_ids.append(token_id)
        return token_id, self._decide(token_id, position + 1)

    def score_prompt(self, logits: np.ndarray) -> None:
        """Keeps the probabilities of the prompt's next tokens, from logits float [tokens, vocabulary]."""
        for each in logits[: len(self.prompt) - len(self._prompt_logprobs)]:
            scores = log_probabilities(np.asarray(each, np.float32))
            token_id = self.prompt[len(self._prompt_logprobs)]
            self._prompt_logprobs.append(float(scores[token_id]))
            self._prompt_top.append(top_log_probabilities(scores, self.options.top_logprobs))

    def generation(self) -> Generation:
        """The result, when the row has ended."""
        options = self.options
        return Generation(
            prompt_ids=tuple(self.prompt),
            token_ids=tuple(self.token_ids[len(self.prompt) :]),
            text=self._text.text,
            finish_reason=self.finish_reason,
            logprobs=tuple(self._logprobs) if options.logprobs else None,
            prompt_logprobs=tuple(self._prompt_logprobs) if options.prompt_logprobs else None,
            top_logprobs=tuple(self._top) if options.top_logprobs else None,
            prompt_top_logprobs=(
                tuple(self._prompt_top) if options.prompt_logprobs and options.top_logprobs else None
            ),
        )

    def _decide(self, token_id: int, num_new: int) -> str:
        if token_id in self._ends:
            piece = self._text.finish()
            self.finish_reason = "stop"
            return piece
        piece = self._text.push(token_id)
        if not self._text.stopped and num_new >= self.limit:
            piece += self._text.finish()
            self.finish_reason = "length"
        if self._text.stopped:
            self.finish_reason = "stop"
        return piece


def make_rows(
    prompts, options: GenerationOptions, tokenizer, vocabulary_size: int, context_length: int
) -> list[Row]:
    """The rows of checked prompts.

    Args:
        prompts: a string, token ids, or a list of strings or of token ids.
        options: of all of them.
        tokenizer: with `encode`, `end_of_text_id` and `stream_decoder`; needed for text only.
        vocabulary_size, context_length: of the model.

    Raises:
        InputError: for a prompt that is too long, empty without an end-of-text id, or holds an id outside
            the vocabulary; for text or stop strings without a tokenizer; for seeds of another count.
    """
    if options.stop and tokenizer is None:
        raise InputError(
            "found stop strings but no tokenizer, expected token ids to end on; pass a tokenizer"
        )
    ends = _end_of_text_ids(options, tokenizer)
    ids = prompt_token_ids(prompts, tokenizer, ends, vocabulary_size, context_length)
    return [
        Row(
            index,
            prompt,
            seed,
            options,
            ends,
            min(options.max_new_tokens, context_length - len(prompt)),
            RowText(tokenizer, options.stop),
        )
        for index, (prompt, seed) in enumerate(zip(ids, options.row_seeds(len(ids)), strict=True))
    ]


def _end_of_text_ids(options: GenerationOptions, tokenizer) -> tuple[int, ...]:
    if options.end_of_text_ids is not None:
        return options.end_of_text_ids
    end = getattr(tokenizer, "end_of_text_id", None)
    return () if end is None else (int(end),)
