"""Reading tokenizer files: tokenizer.json, or a vocabulary with its merges, in either naming. No TF."""

import json
import os
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tfgpt.errors import InputError

END_OF_TEXT = "<|endoftext|>"

# Hugging Face's names, then those of OpenAI's release (github.com/openai/gpt-2, src/encoder.py).
VOCABULARY_AND_MERGES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def read_backend(directory: str | os.PathLike) -> tokenizers.Tokenizer:
    """The `tokenizers.Tokenizer` described by the files of `directory`.

    tokenizer.json wins where it is there; a vocabulary with merges is GPT-2's byte-level BPE.

    Raises:
        InputError: no tokenizer files, or files that are truncated, corrupt or do not fit together.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"found no directory {directory}, expected a directory with tokenizer files")
    if (directory / "tokenizer.json").is_file():
        return read_tokenizer_json(directory / "tokenizer.json")
    for vocabulary_name, merges_name in VOCABULARY_AND_MERGES:
        vocabulary_path, merges_path = directory / vocabulary_name, directory / merges_name
        if vocabulary_path.is_file() and merges_path.is_file():
            backend = byte_level_backend(
                read_vocabulary(vocabulary_path), read_merges(merges_path), directory
            )
            _add_tokens(backend, directory / "added_tokens.json")
            return backend
    raise InputError(
        f"found no tokenizer in {directory}, expected tokenizer.json, or vocab.json with merges.txt, or "
        "encoder.json with vocab.bpe; copy them from where the model comes from"
    )


def byte_level_backend(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], source="the vocabulary"
) -> tokenizers.Tokenizer:
    """GPT-2's byte-level BPE over `vocabulary` and `merges`; <|endoftext|> is special if it is in it."""
    try:
        # The empty affixes are what GPT-2's published tokenizer.json states.
        model = models.BPE(
            vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix=""
        )
    except Exception as error:  # the library raises a bare Exception
        raise InputError(
            f"found merges that do not fit the vocabulary in {source} ({_one_line(error)}), expected every "
            "merge to join two tokens of the vocabulary; take both files from the same model"
        ) from error
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocabulary:
        backend.add_special_tokens([END_OF_TEXT])
    return backend


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """A `tokenizers.Tokenizer` from its JSON; InputError if it is not one."""
    text = read_text(path)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises a bare Exception
        raise InputError(
            f"found a {path} that is no tokenizer ({_one_line(error)}), expected the tokenizers library's "
            "JSON; copy the file again"
        ) from error
    # Truncation and padding stored for somebody's batches would silently change the ids.
    backend.no_truncation()
    backend.no_padding()
    return backend


def read_json(path: Path) -> dict:
    """The JSON object in `path`; InputError if it holds anything else."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"found broken JSON in {path} ({error}), expected a whole file; copy it again"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"found a JSON {type(value).__name__} in {path}, expected an object")
    return value


def read_text(path: Path) -> str:
    """The UTF-8 text of `path`; InputError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"found {path} unreadable ({_one_line(error)}), expected UTF-8 text; copy it again"
        ) from error


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token to id, from JSON; the ids must be 0, 1, 2, ... without a gap."""
    vocabulary = read_json(path)
    wrong = next((token for token, token_id in vocabulary.items() if type(token_id) is not int), None)
    if wrong is not None:
        raise InputError(
            f"found {vocabulary[wrong]!r} as the id of {wrong!r} in {path}, expected a whole number"
        )
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise InputError(
            f"found {len(vocabulary)} tokens in {path} whose ids have gaps or repeat, expected 0 to "
            f"{len(vocabulary) - 1}, each once; copy the file again"
        )
    return vocabulary


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The merges in order of priority: one pair a line below an optional `#version` line."""
    merges = []
    # Only "\n" ends a line: tokens may hold characters that splitlines() would take for line ends.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise InputError(
                f"found {line[:40]!r} in {path} line {number}, expected two tokens and one space"
            )
        merges.append((pair[0], pair[1]))
    return merges


def _add_tokens(backend: tokenizers.Tokenizer, path: Path) -> None:
    """Adds the tokens of added_tokens.json, as slow tokenizers saved them, at the ids they state."""
    if not path.is_file():
        return
    for content, token_id in sorted(read_json(path).items(), key=lambda item: item[1]):
        backend.add_special_tokens([content])
        if backend.token_to_id(content) != token_id:
            raise InputError(
                f"found {content!r} with id {token_id} in {path}, expected id {backend.token_to_id(content)} "
                "after the vocabulary; take all tokenizer files from the same model"
            )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
