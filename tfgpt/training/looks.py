"""What TensorBoard shows of a model in training: a text it writes and where it attends."""

from collections.abc import Callable

from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.models.inspect import attention_maps


def sample_look(tokenizer, prompt: str, num_tokens: int, seed: int = 0) -> Callable | None:
    """`sample(model) -> str`: the prompt and its continuation at temperature 0.8, always with the same seed.

    None where the prompt cannot be encoded or no tokens are asked for.
    """
    try:
        prompt_ids = tokenizer.encode(prompt)
    except InputError:
        prompt_ids = []
    if not num_tokens or not prompt_ids:
        return None

    def sample(model) -> str:
        room = model.config.context_length - len(prompt_ids)
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
