"""Tokenizing in parallel and writing token shards, all or nothing. No TF."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from tfgpt.data.shards import (
    DOCUMENT_NAMES_NAME,
    DOCUMENT_STARTS_NAME,
    INDEX_NAME,
    ShardIndex,
    TokenShards,
    token_dtype,
)
from tfgpt.data.text import Document
from tfgpt.errors import InputError
from tfgpt.files import write_json
from tfgpt.replacing import replacing_directory
from tfgpt.tokenizers.base import Tokenizer

SHARD_TOKENS = 2**26  # 128 MB of uint16 a file
BATCH_BYTES = 2**22  # text handed to the tokenizer's threads at once; each byte costs them some 30 of memory
SHARD_FILES = (INDEX_NAME, DOCUMENT_STARTS_NAME, DOCUMENT_NAMES_NAME, "tokens-*.bin")
PIECE_CHARACTERS = 2**15  # one thread's portion: small, so that one long document keeps all cores busy

# Between these two characters every GPT regular expression cuts (GPT-2's, and those of the tiktoken family):
# a single line end with something other than white space on both sides. Tokens never reach across.
_SAFE_CUT = re.compile(r"(?<=\S\n)(?=\S)")


class _ShardWriter:
    """Writes one stream of ids as files of at most `shard_tokens` each."""

    def __init__(self, directory: Path, dtype: np.dtype, shard_tokens: int):
        self.directory, self.dtype, self.shard_tokens = directory, dtype, shard_tokens
        self.shards: list[dict] = []
        self.num_tokens = 0
        self._file = None

    def write(self, token_ids: list[int]) -> None:
        tokens = np.asarray(token_ids, self.dtype)
        self.num_tokens += len(tokens)
        while len(tokens):
            if self._file is None:
                self._open()
            room = self.shard_tokens - self._count
            part, tokens = tokens[:room], tokens[room:]
            self._file.write(part.data)
            self._digest.update(part.data)
            self._count += len(part)
            if self._count == self.shard_tokens:
                self.close()

    def _open(self) -> None:
        self._name = f"tokens-{len(self.shards):05d}.bin"
        self._file = open(self.directory / self._name, "wb")  # noqa: SIM115 - closed in close()
        self._digest, self._count = hashlib.sha256(), 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self.shards.append(
                {"file": self._name, "num_tokens": self._count, "sha256": self._digest.hexdigest()}
            )

    def index(
        self, tokenizer: Tokenizer, num_documents: int, num_bytes: int, inputs_fingerprint: str
    ) -> ShardIndex:
        return ShardIndex(
            dtype=self.dtype.name,
            num_tokens=self.num_tokens,
            num_documents=num_documents,
            num_bytes=num_bytes,
            vocabulary_size=tokenizer.vocabulary_size,
            end_of_text_id=tokenizer.end_of_text_id,
            tokenizer_fingerprint=tokenizer.fingerprint(),
            inputs_fingerprint=inputs_fingerprint,
            shards=tuple(self.shards),
        )


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    directory: str | os.PathLike,
    *,
    inputs_fingerprint: str = "",
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> TokenShards:
    """Tokenizes `documents` in order, each followed by end-of-text, and writes them as token shards.

    Memory is bounded by the largest document, not by the corpus. Special tokens written in a text are encoded
    as the characters they are, so that end-of-text only ever marks a true end. The directory appears when
    all of it is written; one that is whole and has the same non-empty `inputs_fingerprint` is reused.

    Args:
        documents: the texts.
        tokenizer: makes the ids; where it has no end-of-text token, documents follow each other directly.
        directory: where to write; an older one is replaced.
        inputs_fingerprint: any string that changes when the documents do; "" never reuses.
        shard_tokens: the largest number of tokens in one file.
        progress: called with the number of bytes of text done so far.

    Raises:
        InputError: no documents.
    """
    directory = Path(directory)
    reused = reusable_shards(directory, tokenizer, inputs_fingerprint)
    if reused is not None:
        return reused
    with replacing_directory(directory, owned=SHARD_FILES) as temporary:
        writer = _ShardWriter(temporary, token_dtype(tokenizer.vocabulary_size), shard_tokens)
        names, starts, num_bytes = [], [], 0
        end = [] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id]
        try:
            for document, token_ids in _tokenized(documents, tokenizer):
                names.append(document.name)
                starts.append(writer.num_tokens)
                num_bytes += len(document.text.encode())
                writer.write(token_ids + end)
                if progress is not None:
                    progress(num_bytes)
        finally:
            writer.close()
        if writer.num_tokens == 0:
            raise InputError(f"found no text to pack into {directory}, expected at least one document")
        index = writer.index(tokenizer, len(names), num_bytes, inputs_fingerprint)
        _write_documents(temporary, names, starts)
        write_json(temporary / INDEX_NAME, index.as_dict())
    return TokenShards.open(directory)


def reusable_shards(directory: Path, tokenizer: Tokenizer, inputs_fingerprint: str) -> TokenShards | None:
    """The shards in `directory` if they are whole and were made from the same inputs, else None."""
    if not inputs_fingerprint or not (directory / INDEX_NAME).is_file():
        return None
    try:
        shards = TokenShards.open(directory)
    except InputError:  # truncated or of an older version: it is made again
        return None
    same = (
        shards.index.inputs_fingerprint == inputs_fingerprint
        and shards.tokenizer_fingerprint == tokenizer.fingerprint()
    )
    return shards if same else None


def _write_documents(directory: Path, names: list[str], starts: list[int]) -> None:
    np.asarray(starts, "<i8").tofile(directory / DOCUMENT_STARTS_NAME)
    lines = "".join(json.dumps(name) + "\n" for name in names)
    (directory / DOCUMENT_NAMES_NAME).write_text(lines, encoding="utf-8")


def cut_text(text: str, piece_characters: int = PIECE_CHARACTERS) -> list[str]:
    """`text` in pieces of about `piece_characters` whose ids, joined, are the ids of the whole text.

    That holds for tokenizers with `encodes_lines_apart`. A piece is longer where no place to cut follows: a
    text without line ends is encoded at once.
    """
    pieces, start = [], 0
    while len(text) - start > piece_characters:
        place = _SAFE_CUT.search(text, start + piece_characters)
        if place is None:
            break
        pieces.append(text[start : place.start()])
        start = place.start()
    pieces.append(text[start:])
    return pieces


def _tokenized(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[Document, list[int]]]:
    """Each document with its ids; many pieces are encoded at once, so that all cores are busy."""
    may_cut = tokenizer.encodes_lines_apart
    for batch in _batches(documents):
        pieces = [cut_text(document.text) if may_cut else [document.text] for document in batch]
        encoded = iter(
            tokenizer.encode_batch([piece for cut in pieces for piece in cut], allow_special=False)
        )
        for document, cut in zip(batch, pieces, strict=True):
            yield document, [token_id for _ in cut for token_id in next(encoded)]


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
