"""Reading tokenizer files: tokenizer.json, or a vocabulary with its merges, in either naming. No TF."""

import os
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tfgpt.errors import InputError, one_line
from tfgpt.files import read_json
from tfgpt.tokenizers.file_names import TOKENIZER_FILE, VOCABULARY_AND_MERGES

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"
END_OF_WORD = "</w>"


def read_backend(directory: str | os.PathLike) -> tokenizers.Tokenizer:
    """The `tokenizers.Tokenizer` described by the files of `directory`.

    tokenizer.json wins where it is there; a vocabulary with merges is GPT-2's byte-level BPE, or GPT-1's BPE
    where its characters are marked at the ends of words.

    Raises:
        InputError: no tokenizer files, or files that are truncated, corrupt or do not fit together.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"found no directory {directory}, expected a directory with tokenizer files")
    if (directory / TOKENIZER_FILE).is_file():
        return read_tokenizer_json(directory / TOKENIZER_FILE)
    for vocabulary_name, merges_name in VOCABULARY_AND_MERGES:
        vocabulary_path, merges_path = directory / vocabulary_name, directory / merges_name
        if vocabulary_path.is_file() and merges_path.is_file():
            vocabulary, merges = read_vocabulary(vocabulary_path), read_merges(merges_path)
            build = end_of_word_backend if _marks_word_ends(vocabulary, merges) else byte_level_backend
            return build(vocabulary, merges, directory)
    raise InputError(
        f"found no tokenizer in {directory}, expected tokenizer.json, or vocab.json with merges.txt, or "
        "encoder.json with vocab.bpe (or GPT-1's names of these); copy them from where the model comes from"
    )


def byte_level_backend(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], source="the vocabulary"
) -> tokenizers.Tokenizer:
    """GPT-2's byte-level BPE over `vocabulary` and `merges`; <|endoftext|> is special if it is in it."""
    # The empty affixes are what GPT-2's published tokenizer.json states.
    model = _byte_pair_model(source, vocab=vocabulary, merges=merges, end_of_word_suffix="")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocabulary:
        backend.add_special_tokens([END_OF_TEXT])
    return backend


def end_of_word_backend(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], source="the vocabulary"
) -> tokenizers.Tokenizer:
    """GPT-1's BPE over characters, the last of a word marked by `</w>`, as transformers builds it.

    Reference: transformers' models/openai/tokenization_openai.py. <unk> is special where it is known.
    """
    unknown = UNKNOWN if UNKNOWN in vocabulary else None
    model = _byte_pair_model(
        source, vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD, unk_token=unknown
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    if unknown:
        backend.add_special_tokens([unknown])
    return backend


def _byte_pair_model(source, **arguments) -> models.BPE:
    try:
        return models.BPE(continuing_subword_prefix="", fuse_unk=False, **arguments)
    except Exception as error:  # the library raises a bare Exception
        raise InputError(
            f"found merges that do not fit the vocabulary in {source} ({one_line(error)}), expected every "
            "merge to join two tokens of the vocabulary; take both files from the same model"
        ) from error


def _marks_word_ends(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> bool:
    """Whether the vocabulary begins from characters with `</w>`, as GPT-1's does.

    A byte-level vocabulary that was trained on markup may hold "p</w>", too, but only as what merges make.
    """
    marked = {
        token for token in vocabulary if len(token) == 1 + len(END_OF_WORD) and token.endswith(END_OF_WORD)
    }
    return bool(marked - {left + right for left, right in merges})


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """A `tokenizers.Tokenizer` from its JSON; InputError if it is not one."""
    text = read_text(path)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises a bare Exception
        raise InputError(
            f"found a {path} that is no tokenizer ({one_line(error)}), expected the tokenizers library's "
            "JSON; copy the file again"
        ) from error
    # Truncation and padding stored for somebody's batches would silently change the ids.
    backend.no_truncation()
    backend.no_padding()
    return backend


def read_text(path: Path) -> str:
    """The UTF-8 text of `path`; InputError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"found {path} unreadable ({one_line(error)}), expected UTF-8 text; copy it again"
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


def merges_of(model: dict) -> list[tuple[str, str]]:
    """The merges of the model in a tokenizer.json, where a pair is a list or, of old, one string."""
    merges = model.get("merges", [])
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in merges]
