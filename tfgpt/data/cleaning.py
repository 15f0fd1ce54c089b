"""Cleaning that changes little: line ends, control characters, trailing spaces, copies. No TF."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from tfgpt.data.text import Document
from tfgpt.errors import InputError

# C0 and C1 controls apart from tab and newline, and lone surrogates (JSON can spell them; UTF-8 cannot).
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_LINE_END = re.compile("\r\n?")
_TRAILING_SPACE = re.compile(r"[ \t]+(?=\n|\Z)")


@dataclass(frozen=True)
class CleaningOptions:
    """What to clean. Characters are never normalised (no NFC): a model should see text as people write it.

    Attributes:
        newlines: CR LF and CR become LF.
        control_characters: drop C0 and C1 controls apart from tab and newline, and lone surrogates.
        trailing_spaces: drop spaces and tabs before a line's end.
        duplicates: keep only the first of documents whose cleaned text is the same.
        max_document_bytes: leave out documents larger than this, in bytes of UTF-8; None keeps all.
    """

    newlines: bool = True
    control_characters: bool = True
    trailing_spaces: bool = True
    duplicates: bool = True
    max_document_bytes: int | None = None

    def __post_init__(self):
        if self.max_document_bytes is not None and self.max_document_bytes < 1:
            raise InputError(
                f"found max_document_bytes {self.max_document_bytes}, expected at least 1, or null"
            )


@dataclass
class CleaningReport:
    """What cleaning did, in numbers of characters, documents and bytes."""

    control_characters_removed: int = 0
    documents_with_newlines_changed: int = 0
    trailing_space_bytes_removed: int = 0
    duplicates_dropped: int = 0
    too_long_dropped: int = 0
    empty_dropped: int = 0
    documents: int = 0
    bytes: int = 0

    def as_dict(self) -> dict:
        """Plain numbers, for JSON."""
        return asdict(self)


def clean_text(text: str, options: CleaningOptions, report: CleaningReport) -> str:
    """`text` cleaned by `options`, counted in `report`."""
    if options.newlines and "\r" in text:
        text = _LINE_END.sub("\n", text)
        report.documents_with_newlines_changed += 1
    if options.control_characters:
        text, removed = _CONTROL.subn("", text)
        report.control_characters_removed += removed
    if options.trailing_spaces:
        before = len(text)
        text = _TRAILING_SPACE.sub("", text)
        report.trailing_space_bytes_removed += before - len(text)  # spaces and tabs: one byte each
    return text


def clean_documents(
    documents: Iterator[Document], options: CleaningOptions, report: CleaningReport
) -> Iterator[Document]:
    """The cleaned documents that are left, in order; needs 16 bytes of memory for each to find copies."""
    seen = set()
    for document in documents:
        cleaned = replace(document, text=clean_text(document.text, options, report))
        size, digest = len(cleaned.text.encode("utf-8", errors="surrogatepass")), cleaned.digest()
        if not cleaned.text.strip():
            report.empty_dropped += 1
        elif options.max_document_bytes is not None and size > options.max_document_bytes:
            report.too_long_dropped += 1
        elif options.duplicates and digest in seen:
            report.duplicates_dropped += 1
        else:
            seen.add(digest)
            report.documents += 1
            report.bytes += size
            yield cleaned
