"""Packed tokens on disk: memory-mapped files of ids behind one JSON index. No TF.

DIRECTORY/
  index.json          dtype, numbers of tokens, documents and bytes, fingerprints, the shards in order
  tokens-00000.bin    ids, little-endian uint16 or uint32, nothing else in the file
  tokens-00001.bin    ...
  documents.bin       int64 [num_documents]: where in the stream of all tokens each document starts
  documents.jsonl     one JSON string a line: the documents' names, in the same order
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tfgpt.errors import InputError

FORMAT = "tfgpt-token-shards"
VERSION = 1
INDEX_NAME = "index.json"
DOCUMENT_STARTS_NAME = "documents.bin"
DOCUMENT_NAMES_NAME = "documents.jsonl"


@dataclass(frozen=True)
class ShardIndex:
    """index.json. `num_bytes` is the UTF-8 size of the text, end-of-text tokens not counted."""

    dtype: str
    num_tokens: int
    num_documents: int
    num_bytes: int
    vocabulary_size: int
    end_of_text_id: int | None
    tokenizer_fingerprint: str
    inputs_fingerprint: str
    shards: tuple[dict, ...]  # {"file": name, "num_tokens": count, "sha256": digest}

    def as_dict(self) -> dict:
        """The content of index.json."""
        return {"format": FORMAT, "version": VERSION, **asdict(self), "shards": list(self.shards)}

    @classmethod
    def read(cls, directory: Path) -> "ShardIndex":
        """Reads index.json; InputError if it is missing or is not one."""
        path = directory / INDEX_NAME
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"found no {INDEX_NAME} in {directory}, expected packed tokens; pack the corpus"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(
                f"found {path} unreadable, expected JSON; delete {directory} and pack again"
            ) from error
        if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("version") != VERSION:
            raise InputError(
                f"found another format in {path}, expected {FORMAT} version {VERSION}; pack again"
            )
        names = cls.__dataclass_fields__
        missing = [name for name in names if name not in value]
        if missing:
            raise InputError(
                f"found no {missing[0]!r} in {path}, expected a whole index; pack the corpus again"
            )
        return cls(**{name: value[name] for name in names} | {"shards": tuple(value["shards"])})


class TokenShards:
    """One stream of tokens over memory-mapped files; opening reads none of it."""

    def __init__(self, directory: Path, index: ShardIndex, tokens: list[np.ndarray]):
        self.directory = directory
        self.index = index
        self._tokens = tokens
        self._starts = np.cumsum([0, *(len(shard) for shard in tokens)])  # [num_shards + 1]

    @classmethod
    def open(cls, directory: str | os.PathLike, verify: bool = False) -> "TokenShards":
        """Maps the shards of `directory`, checking that each file is as long as the index says.

        `verify` also reads everything and compares it with the recorded SHA-256.

        Raises:
            InputError: no index, or a shard that is missing, truncated or (with `verify`) changed.
        """
        directory = Path(directory)
        index = ShardIndex.read(directory)
        dtype = np.dtype(index.dtype).newbyteorder("<")
        tokens = [_map(directory / shard["file"], shard["num_tokens"], dtype) for shard in index.shards]
        shards = cls(directory, index, tokens)
        if shards._starts[-1] != index.num_tokens:
            raise InputError(
                f"found {shards._starts[-1]} tokens in the shards of {directory}, expected "
                f"{index.num_tokens}; pack the corpus again"
            )
        _map(directory / DOCUMENT_STARTS_NAME, index.num_documents, np.dtype("<i8"))
        if verify:
            shards._verify()
        return shards

    @property
    def num_tokens(self) -> int:
        """The number of tokens, end-of-text tokens included."""
        return self.index.num_tokens

    @property
    def num_bytes(self) -> int:
        """The number of bytes of UTF-8 text that the tokens stand for."""
        return self.index.num_bytes

    @property
    def num_documents(self) -> int:
        """The number of documents."""
        return self.index.num_documents

    @property
    def tokenizer_fingerprint(self) -> str:
        """`fingerprint()` of the tokenizer that made the ids."""
        return self.index.tokenizer_fingerprint

    @property
    def vocabulary_size(self) -> int:
        """The size of that tokenizer's vocabulary."""
        return self.index.vocabulary_size

    @property
    def end_of_text_id(self) -> int | None:
        """The id that ends each document, or None if nothing does."""
        return self.index.end_of_text_id

    @property
    def dtype(self) -> np.dtype:
        """uint16 or uint32."""
        return self._tokens[0].dtype

    def window(self, start: int, length: int) -> np.ndarray:
        """The `length` tokens from `start` on: [length], a view into the file where one shard holds them.

        Raises:
            InputError: a window that reaches out of the stream.
        """
        if start < 0 or length < 0 or start + length > self.num_tokens:
            raise InputError(
                f"found the window {start} to {start + length}, expected one within 0 to {self.num_tokens}"
            )
        first = max(int(np.searchsorted(self._starts, start, side="right")) - 1, 0)
        parts, position, end = [], start, start + length
        while position < end:
            offset = position - int(self._starts[first])
            part = self._tokens[first][offset : offset + end - position]
            parts.append(part)
            position += len(part)
            first += 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def gather(self, places: np.ndarray) -> np.ndarray:
        """The tokens at `places` (int64, any shape, each within the stream): int32, of the same shape."""
        if len(self._tokens) == 1:
            return self._tokens[0][places].astype(np.int32)
        tokens = np.empty(places.shape, np.int32)
        shard_of = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(shard_of):
            inside = shard_of == number
            tokens[inside] = self._tokens[number][places[inside] - self._starts[number]]
        return tokens

    def all_tokens(self) -> np.ndarray:
        """The whole stream: [num_tokens], read into memory where there are several shards."""
        return self.window(0, self.num_tokens)

    def document_starts(self) -> np.ndarray:
        """Where each document starts in the stream: int64 [num_documents], memory-mapped."""
        return _map(self.directory / DOCUMENT_STARTS_NAME, self.num_documents, np.dtype("<i8"))

    def document_names(self) -> list[str]:
        """The documents' names, in the order of the stream."""
        text = (self.directory / DOCUMENT_NAMES_NAME).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n") if line]

    def check_tokenizer(self, tokenizer) -> None:
        """InputError if `tokenizer` is not the one that made these tokens."""
        if tokenizer.fingerprint() != self.tokenizer_fingerprint:
            raise InputError(
                f"found tokens made by tokenizer {self.tokenizer_fingerprint} in {self.directory}, expected "
                f"those of {tokenizer.fingerprint()}; use the tokenizer of the corpus, or pack it again"
            )

    def _verify(self) -> None:
        import hashlib

        for shard, tokens in zip(self.index.shards, self._tokens, strict=True):
            if hashlib.sha256(tokens.data).hexdigest() != shard["sha256"]:
                raise InputError(
                    f"found {shard['file']} in {self.directory} changed since it was written, expected "
                    f"sha256 {shard['sha256'][:16]}...; pack the corpus again"
                )


def token_dtype(vocabulary_size: int) -> np.dtype:
    """The smallest type that holds every id."""
    return np.dtype("<u2") if vocabulary_size <= 2**16 else np.dtype("<u4")


def _map(path: Path, count: int, dtype: np.dtype) -> np.ndarray:
    expected = count * dtype.itemsize
    try:
        found = path.stat().st_size
    except OSError as error:
        raise InputError(f"found no {path}, expected {expected} bytes; pack the corpus again") from error
    if found != expected:
        raise InputError(
            f"found {found} bytes in {path}, expected {expected}; delete it and pack the corpus again"
        )
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, mode="r", shape=(count,)) if count else np.empty(0, dtype)
