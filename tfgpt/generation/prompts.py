"""Prompts as users give them, checked and turned into token ids. NumPy only."""

from collections.abc import Sequence

from tfgpt.errors import InputError
from tfgpt.generation.options import is_integer


def prompt_token_ids(prompts, tokenizer, end_of_text_ids, vocabulary_size, context_length) -> list[list[int]]:
    """Token ids of each prompt.

    Args:
        prompts: a string, token ids, or a list of strings or of token ids (mixed, if need be).
        tokenizer: with `encode`; needed for strings only.
        end_of_text_ids: an empty prompt starts from the first of them, as GPT-2 did unconditionally.
        vocabulary_size: ids must be below it.
        context_length: a prompt must leave room in it for one new token.

    Raises:
        InputError: for anything else, naming the prompt's place, counted from 0, and the numbers.
    """
    return [
        _checked(row, _encoded(row, prompt, tokenizer), end_of_text_ids, vocabulary_size, context_length)
        for row, prompt in enumerate(_as_list(prompts))
    ]


def _as_list(prompts) -> list:
    if isinstance(prompts, str):
        return [prompts]
    if _is_array(prompts):  # of one prompt or of several
        prompts = prompts.tolist()
    if not _is_sequence(prompts):
        raise InputError(
            f"found {type(prompts).__name__} for prompts, expected a string, token ids, or a list"
        )
    if prompts and all(is_integer(item) for item in prompts):
        return [list(prompts)]
    return list(prompts)


def _encoded(row: int, prompt, tokenizer) -> list[int]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise InputError(
                f"found text for prompt {row} but no tokenizer, expected token ids; pass a tokenizer"
            )
        return list(tokenizer.encode(prompt))
    if _is_array(prompt):
        prompt = prompt.tolist()
    if not _is_sequence(prompt) or not all(is_integer(item) for item in prompt):
        raise InputError(
            f"found {type(prompt).__name__} for prompt {row}, expected a string or a list of token ids"
        )
    return [int(item) for item in prompt]


def _is_array(value) -> bool:
    return hasattr(value, "tolist") and not isinstance(value, memoryview)


def _is_sequence(value) -> bool:
    # Bytes are a text's, or a file's: never ids, though each of them is a number.
    return isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview)


def _checked(row, token_ids, end_of_text_ids, vocabulary_size, context_length) -> list[int]:
    if not token_ids:
        if not end_of_text_ids:
            raise InputError(
                f"found an empty prompt {row} and no end-of-text id to start from, expected a token at least"
            )
        token_ids = [end_of_text_ids[0]]
    if len(token_ids) >= context_length:
        raise InputError(
            f"found {len(token_ids)} tokens in prompt {row}, expected at most {context_length - 1}: the "
            f"context holds {context_length}, prompt and new tokens together; shorten the prompt"
        )
    wrong = next((item for item in token_ids if not 0 <= item < vocabulary_size), None)
    if wrong is not None:
        raise InputError(
            f"found token id {wrong} in prompt {row}, expected 0 to {vocabulary_size - 1}; is the tokenizer "
            "that of this model?"
        )
    return token_ids
