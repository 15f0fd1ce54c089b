"""What TensorBoard shows of a model in training: a text it writes and where it attends."""

from collections.abc import Callable

from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.models.inspect import attention_maps


def sample_look(
    tokenizer, prompt: str, num_tokens: int, context_length: int, seed: int = 0
) -> Callable | None:
    """`sample(model) -> str`: the prompt and its continuation at temperature 0.8, always with the same seed.

    None where the prompt cannot be encoded or no tokens are asked for.

    Raises:
        InputError: a prompt that leaves no room for a token in the context.
    """
    try:
        prompt_ids = tokenizer.encode(prompt)
    except InputError:
        prompt_ids = []
    if not num_tokens or not prompt_ids:
        return None
    room = context_length - len(prompt_ids)
    if room < 1:
        raise InputError(
            f"found a tensorboard.sample_prompt of {len(prompt_ids)} tokens, expected at most "
            f"{context_length - 1}, to leave room in the context; shorten it"
        )

    def sample(model) -> str:
        options = GenerationOptions(max_new_tokens=min(num_tokens, room), temperature=0.8, seed=seed)
        (generation,) = model.generate([prompt], options, tokenizer=tokenizer)
        return prompt + generation.text

    return sample


def attention_look(corpus, context_length: int, num_layers: int, num_tokens: int = 32) -> Callable | None:
    """`attention(model) -> list over layers of [batch, heads, query, key]` on the first validation tokens."""
    if not num_layers:
        return None
    length = min(num_tokens, context_length, corpus.validation.num_tokens)
    token_ids = corpus.validation.window(0, length)[None, :]  # [1, length]
    return lambda model: attention_maps(model, token_ids)
