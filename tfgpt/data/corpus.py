"""A corpus to be prepared: its options, and its documents cleaned and split. No TF."""

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tfgpt.data.cleaning import CleaningOptions, CleaningReport, clean_documents
from tfgpt.data.splitting import name_hash, split_by_file, validation_files
from tfgpt.data.text import CorpusFile, Document, ReadingReport, empty_corpus, read_files
from tfgpt.errors import InputError

KEEP_BYTES = 2**30  # corpora up to this size stay in memory between the passes; larger ones are read again

# Called with (stage, done, total): "read", "tokenizer", "train", "validation"; numbers of bytes of text.
Progress = Callable[[str, int, int], None]


class TokenizerKind(enum.StrEnum):
    """What to learn from the training text."""

    BYTE_PAIR = "byte_pair"
    CHARACTER = "character"


@dataclass(frozen=True)
class CorpusOptions:
    """How to prepare a corpus.

    Attributes:
        tokenizer_kind: what to learn where no tokenizer is given.
        vocabulary_size: the most tokens of a byte-pair vocabulary.
        tokenizer_bytes: learn it from about this much of the training text, in pieces chosen by a hash.
        validation_fraction: the share of files for validation.
        split_seed: chooses other files.
        max_bytes: use about this much text: files chosen by a hash of the name; None uses all.
        cleaning: what to clean.
    """

    tokenizer_kind: TokenizerKind = TokenizerKind.BYTE_PAIR
    vocabulary_size: int = 8192
    tokenizer_bytes: int = 2**27
    validation_fraction: float = 0.05
    split_seed: int = 0
    max_bytes: int | None = None
    cleaning: CleaningOptions = field(default_factory=CleaningOptions)

    def __post_init__(self):
        try:
            object.__setattr__(self, "tokenizer_kind", TokenizerKind(self.tokenizer_kind))
        except ValueError as error:
            raise InputError(
                f"found tokenizer_kind {self.tokenizer_kind!r}, expected byte_pair or character"
            ) from error
        if not 0.0 < self.validation_fraction < 1.0:
            raise InputError(
                f"found validation_fraction {self.validation_fraction}, expected a number between 0 and 1"
            )
        if self.max_bytes is not None and self.max_bytes < 1:
            raise InputError(
                f"found max_bytes {self.max_bytes}, expected at least 1, or null for all the text"
            )


def select_files(files: Sequence[CorpusFile], max_bytes: int | None) -> list[CorpusFile]:
    """The files in order of a hash of their names that fit into `max_bytes` on disk, sorted by name.

    One file at least is taken; `prepare_corpus` cuts what is too much then (a large file, unpacked archives).
    """
    if max_bytes is None:
        return list(files)
    chosen, total = [], 0
    for file in sorted(files, key=lambda file: name_hash(file.name, "subset")):
        size, _ = file.size_and_time()
        if not chosen or total + size <= max_bytes:
            chosen.append(file)
            total += size
    return sorted(chosen, key=lambda file: file.name)


class CleanedCorpus:
    """The cleaned documents of both splits: kept in memory when they fit, else read again for each pass."""

    def __init__(self, files: Sequence[CorpusFile], options: CorpusOptions):
        self.files, self.options = files, options
        self.reading, self.cleaning = ReadingReport(), CleaningReport()
        self.sizes = {"train": 0, "validation": 0}
        self._kept: dict[str, list[Document]] | None = None
        self._validation_files: frozenset[str] = frozenset()

    @classmethod
    def read(cls, files, options: CorpusOptions, progress: Progress, source) -> "CleanedCorpus":
        """The first pass: reads and cleans everything, and splits it."""
        corpus = cls(files, options)
        # A corpus of one file is split inside of it, for which it must be in memory.
        keep_bytes = KEEP_BYTES if len(files) > 1 else float("inf")
        kept, sizes = [], {}
        total = sum(file.size_and_time()[0] for file in files)
        for document in corpus._pass(corpus.reading, corpus.cleaning):
            sizes[document.file] = sizes.get(document.file, 0) + len(document.text.encode())
            progress("read", corpus.reading.bytes, max(total, corpus.reading.bytes))
            if kept is not None:
                kept.append(document)
                kept = kept if corpus.cleaning.bytes <= keep_bytes else None
        if not sizes:
            raise empty_corpus(source, corpus.reading)
        corpus._split(kept, sizes)
        return corpus

    def _split(self, kept: list[Document] | None, sizes: dict[str, int]) -> None:
        fraction, seed = self.options.validation_fraction, self.options.split_seed
        if kept is not None:
            train, validation = split_by_file(kept, fraction, seed)
            self._kept = {"train": train, "validation": validation}
            for split, documents in self._kept.items():
                self.sizes[split] = sum(len(document.text.encode()) for document in documents)
            self._validation_files = frozenset(document.file for document in validation)
        else:
            self._validation_files = validation_files(sizes, fraction, seed)
            for file, size in sizes.items():
                self.sizes["validation" if file in self._validation_files else "train"] += size

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of "train" or "validation", in order of their names."""
        if self._kept is not None:
            yield from self._kept[split]
            return
        for document in self._pass(ReadingReport(), CleaningReport()):
            if (document.file in self._validation_files) == (split == "validation"):
                yield document

    def report(self) -> dict:
        """What was read, cleaned and split."""
        return {
            "reading": self.reading.as_dict(),
            "cleaning": self.cleaning.as_dict(),
            "bytes": self.sizes,
            "validation_files": sorted(self._validation_files)[:1000],
        }

    def _pass(self, reading: ReadingReport, cleaning: CleaningReport) -> Iterator[Document]:
        documents = clean_documents(read_files(self.files, reading), self.options.cleaning, cleaning)
        return _limited(documents, self.options.max_bytes)


def _limited(documents: Iterator[Document], max_bytes: int | None) -> Iterator[Document]:
    """Documents up to `max_bytes`, the last one cut after a line."""
    room = float("inf") if max_bytes is None else max_bytes
    for document in documents:
        size = len(document.text.encode())
        if size > room:
            text = document.text.encode()[:room].decode(errors="ignore")
            text = text[: text.rfind("\n") + 1] or text
            if text.strip():
                yield replace(document, text=text)
            return
        room -= size
        yield document
