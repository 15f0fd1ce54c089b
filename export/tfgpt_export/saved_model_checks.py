"""The SavedModel's own loop and tokenizer against Keras's: the same tokens and the same texts.

They run the compiled step that Keras's `generate` runs, on the same columns, so nothing is rounded in another
way and equality is exact.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.models.causal_lm import CausalLM
from tfgpt.tokenizers.loading import load_tokenizer
from tfgpt_export.graph_sampling import RowOptions

NEW_TOKENS = 16
PROMPT_LENGTHS = (1, 3, 6, 8)
OUTPUTS = ("token_ids", "lengths")
# One draw in which every filter has a part.
SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
TEXTS = (
    "A",
    " The quick brown fox, it's 12345\n\n  over\tit",
    "na\u00efve cafe\u0301 \u2014 \u65e5\u672c \U0001f44d",
)


def check_graph_generation(loaded, model: CausalLM) -> dict:
    """`generate` gives the tokens of Keras, greedy and drawn, wherever the padding stands.

    Returns:
        the report's entry; `failures` names what differs.
    """
    prompts = _prompts(model)
    token_ids, mask = scattered(prompts)
    choices = {"greedy": {}, "drawn": {**SAMPLED, "seed": tuple(range(len(prompts)))}}
    counts, failures = {}, []
    for name, choice in choices.items():
        options = _options(model, choice)
        found = loaded.signatures["generate"](
            input_ids=tf.constant(token_ids),
            attention_mask=tf.constant(mask),
            **signature_options(options, len(prompts)),
        )
        found = [row[:count] for row, count in zip(*(found[key].numpy() for key in OUTPUTS), strict=True)]
        wanted = [result.token_ids for result in model.generate(prompts, options)]
        equal = sum(int(np.sum(a == b)) for a, b in zip(found, map(np.array, wanted), strict=True))
        counts[name] = sum(map(len, wanted))
        if [tuple(map(int, row)) for row in found] != wanted:
            failures.append(
                f"saved_model: generate gives {equal} of {counts[name]} {name} tokens as Keras, expected all"
            )
    return {
        "artifact": "saved_model", "kind": "loop in the graph", "tokens": counts, "failures": failures,
    }  # fmt: skip


def check_graph_text(loaded, model: CausalLM, tokenizer_dir: Path, refused: str | None = None) -> dict:
    """`generate_text` gives Keras's texts, `encode` and `decode` the tokenizer's; or why there are none."""
    entry = {"artifact": "saved_model", "kind": "text in the graph", "refused": refused, "failures": []}
    if refused is not None:
        return entry
    tokenizer = load_tokenizer(tokenizer_dir)
    room = max(1, model.config.context_length - NEW_TOKENS)
    texts = [text for text in TEXTS if 0 < _num_tokens(tokenizer, text) <= room] or [tokenizer.decode([0])]
    options = _options(model, {})
    given = tf.constant(texts)
    encoded = loaded.signatures["encode"](texts=given)
    lengths = tf.reduce_sum(encoded["attention_mask"], axis=1)
    ids = [row[:n].tolist() for row, n in zip(encoded["input_ids"].numpy(), lengths.numpy(), strict=True)]
    decoded = loaded.signatures["decode"](token_ids=encoded["input_ids"], lengths=lengths)
    generated = loaded.signatures["generate_text"](texts=given, **signature_options(options, len(texts)))
    results = model.generate(texts, options, tokenizer=tokenizer)
    comparisons = {
        "encode": (ids, [tokenizer.encode(text) for text in texts]),
        "decode": (_strings(decoded), [tokenizer.decode(row) for row in ids]),
        "generate_text": (_strings(generated), [result.text for result in results]),
    }
    failures = [
        f"saved_model: {name} gives {found!r}, expected {wanted!r} as Keras and the tokenizer do"
        for name, (found, wanted) in comparisons.items()
        if found != wanted
    ]
    return {**entry, "texts": len(texts), "failures": failures}


def scattered(prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as ids and mask int64 `[batch, length]`, padded on the right, the left and both in turn."""
    length = max(map(len, prompts)) + 2
    token_ids, mask = np.zeros((2, len(prompts), length), np.int64)
    for row, prompt in enumerate(prompts):
        free = length - len(prompt)
        start = (0, free, free // 2)[row % 3]
        token_ids[row, start : start + len(prompt)] = prompt
        mask[row, start : start + len(prompt)] = 1
    return token_ids, mask


def signature_options(options: GenerationOptions, rows: int) -> dict[str, tf.Tensor]:
    """The options as the arguments of a signature, one number for each of `rows`."""
    values = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "seed": options.row_seeds(rows),
        "end_of_text_id": (options.end_of_text_ids or (-1,))[0],
    }
    return {
        name: tf.constant(
            np.broadcast_to(values[name], rows), tf.float32 if name in ("temperature", "top_p") else tf.int64
        )
        for name in RowOptions._fields
    }


def _options(model: CausalLM, choice: dict) -> GenerationOptions:
    new_tokens = min(NEW_TOKENS, model.config.context_length - 1)
    return GenerationOptions(max_new_tokens=new_tokens, end_of_text_ids=(), **choice)


def _prompts(model: CausalLM) -> list[list[int]]:
    config = model.config
    room = max(1, config.context_length - NEW_TOKENS)
    random = np.random.default_rng(1)
    return [random.integers(0, config.vocabulary_size, min(n, room)).tolist() for n in PROMPT_LENGTHS]


def _num_tokens(tokenizer, text: str) -> int:
    """How many tokens the text has; 0 where it has a character that an alphabet lacks."""
    try:
        return len(tokenizer.encode(text))
    except InputError:
        return 0


def _strings(outputs) -> list[str]:
    return [text.decode() for text in outputs["texts"].numpy()]
