"""Which tokenizer it is: the parts of a tokenizer.json that decide the ids of a text. No TF."""

import hashlib
import json

from tfgpt.tokenizers.vocabulary_files import merges_of


def fingerprint(state: dict) -> str:
    """Sixteen hexadecimal digits of a tokenizer.json, which change with anything that changes ids."""
    canonical = json.dumps(_identity(state), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _identity(state: dict) -> dict:
    """The parts of a tokenizer.json that decide the ids of a text."""
    model = state["model"]
    vocabulary = dict(model["vocab"])
    added = {token["content"]: token for token in state.get("added_tokens", [])}
    vocabulary |= {content: token["id"] for content, token in added.items()}
    identity = {
        "type": model.get("type", "BPE"),
        "vocabulary": vocabulary,
        "merges": merges_of(model),
        "special": sorted(content for content, token in added.items() if token["special"]),
        "normalizer": state.get("normalizer"),
        "pre_tokenizer": _without_offsets(state.get("pre_tokenizer")),
        "ignore_merges": bool(model.get("ignore_merges")),
    }
    # What GPT-2 does not have is left out where it is not used: its fingerprint stays what it was.
    rare = ("unk_token", "end_of_word_suffix", "continuing_subword_prefix", "fuse_unk", "byte_fallback")
    if identity["type"] == "BPE":
        identity |= {name: model[name] for name in rare if model.get(name)}
    flags = ("single_word", "lstrip", "rstrip", *(("normalized",) if state.get("normalizer") else ()))
    matching = {
        content: [flag for flag in flags if token.get(flag)]
        for content, token in added.items()
        if any(token.get(flag) for flag in flags)
    }
    return identity | ({"matching": matching} if matching else {})


def _without_offsets(value):
    """Drops `trim_offsets`, which moves character offsets and never ids."""
    if isinstance(value, dict):
        return {key: _without_offsets(item) for key, item in value.items() if key != "trim_offsets"}
    if isinstance(value, list):
        return [_without_offsets(item) for item in value]
    return value
