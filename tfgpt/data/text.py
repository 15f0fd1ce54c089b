"""Reading text: files and directories of .txt, .jsonl and .gz, and Python's own standard library. No TF."""

import gzip
import hashlib
import json
import os
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.paths import user_path

TEXT_SUFFIXES = (".txt", ".jsonl")

# Left out of the default corpus: other people's packages, tests (some are broken on purpose), and code tables
# that a program generated, which are near-copies of each other.
STANDARD_LIBRARY_EXCLUDED = frozenset({"site-packages", "dist-packages", "__pycache__", "encodings"})
STANDARD_LIBRARY_TESTS = frozenset({"test", "tests", "idle_test"})


@dataclass(frozen=True)
class Document:
    """One text. `file` says which file it came from; many records of one .jsonl file share it.

    `name` is unique in the corpus: the file's path below the corpus, with ":line" for a .jsonl record.
    """

    name: str
    text: str
    file: str = ""

    def __post_init__(self):
        if not self.file:
            object.__setattr__(self, "file", self.name)

    def digest(self) -> bytes:
        """Sixteen bytes that two documents share when their text is the same."""
        return hashlib.blake2b(self.text.encode("utf-8", errors="surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus: its name below the corpus, with forward slashes, and where it is."""

    name: str
    path: Path

    def size_and_time(self) -> tuple[int, int]:
        """Bytes, and nanoseconds of the last change; zeros for what reading leaves out (a dead link)."""
        try:
            stat = self.path.stat()
        except OSError:
            return 0, 0
        return stat.st_size, stat.st_mtime_ns


@dataclass
class ReadingReport:
    """What was read: counts, and the names of the files that were left out, by reason."""

    files: int = 0
    documents: int = 0
    bytes: int = 0
    skipped: Counter = field(default_factory=Counter)
    skipped_files: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, name: str) -> None:
        """Counts one file that was left out; the first ten names of each reason are kept."""
        self.skipped[reason] += 1
        names = self.skipped_files.setdefault(reason, [])
        if len(names) < 10:
            names.append(name)

    def as_dict(self) -> dict:
        """Plain numbers and names, for JSON."""
        return {
            "files": self.files,
            "documents": self.documents,
            "bytes": self.bytes,
            "skipped": dict(self.skipped),
            "skipped_files": self.skipped_files,
        }


def corpus_files(path: str | os.PathLike, suffixes: Sequence[str] = TEXT_SUFFIXES) -> list[CorpusFile]:
    """The files of a corpus, sorted by name: `path` itself, or what lies below it with one of `suffixes`.

    A directory is walked recursively, hidden files and directories left out; each suffix also counts with
    ".gz" behind it. A file named directly is taken whatever its suffix.

    Raises:
        InputError: nothing at `path`, or a directory without such files.
    """
    path = user_path(path)
    if path.is_file():
        return [CorpusFile(path.name, path)]
    if not path.is_dir():
        raise InputError(f"found nothing at {path}, expected a text file or a directory; check the path")
    wanted = tuple(suffix + packed for suffix in suffixes for packed in ("", ".gz"))
    files = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(wanted) and not name.startswith("."):
                file = Path(folder) / name
                files.append(CorpusFile(file.relative_to(path).as_posix(), file))
    if not files:
        raise InputError(
            f"found no {', '.join(suffixes)} file (or .gz of one) in {path}, expected text to read"
        )
    return sorted(files, key=lambda file: file.name)


def standard_library_files(include_tests: bool = False) -> list[CorpusFile]:
    """The .py files of the running Python's standard library, sorted by name.

    Raises:
        InputError: a Python that ships its library without sources (some embedded ones do).
    """
    root = Path(sysconfig.get_path("stdlib"))
    excluded = (
        STANDARD_LIBRARY_EXCLUDED if include_tests else STANDARD_LIBRARY_EXCLUDED | STANDARD_LIBRARY_TESTS
    )
    files = []
    for file in corpus_files(root, (".py",)) if root.is_dir() else []:
        parts = file.name.split("/")
        # _sysconfigdata_*.py holds the paths and flags of the machine that built Python.
        if excluded.isdisjoint(parts[:-1]) and not parts[-1].startswith("_sysconfigdata"):
            files.append(file)
    if not files:
        raise InputError(
            f"found no Python sources in {root}, expected the standard library; give --corpus PATH"
        )
    return files


def read_files(files: Sequence[CorpusFile], report: ReadingReport | None = None) -> Iterator[Document]:
    """The documents of `files` in order; each file is held in memory as a whole.

    Files that cannot be opened, are broken archives, hold NUL bytes (binary) or are not UTF-8 are left out
    and counted in `report`. A byte-order mark is dropped. Documents of nothing but white space are left out.

    Raises:
        InputError: a .jsonl line that is not a JSON object with a "text", naming file and line.
    """
    report = ReadingReport() if report is None else report
    for file in files:
        text = _read_text(file, report)
        if text is None:
            continue
        report.files += 1
        is_jsonl = file.name.lower().removesuffix(".gz").endswith(".jsonl")
        for document in _records(file, text) if is_jsonl else [Document(file.name, text)]:
            if document.text.strip():
                report.documents += 1
                report.bytes += len(document.text.encode("utf-8", errors="surrogatepass"))
                yield document


def read_documents(path: str | os.PathLike, report: ReadingReport | None = None) -> Iterator[Document]:
    """The documents of a text file or directory: .txt, .jsonl (key "text"), and both as .gz.

    Deterministic: sorted by name. See `corpus_files` and `read_files`.

    Raises:
        InputError: no such path, a broken .jsonl line, or no text at all (when the iterator ends).
    """
    report = ReadingReport() if report is None else report
    yield from read_files(corpus_files(path), report)
    if report.documents == 0:
        raise empty_corpus(path, report)


def standard_library_documents(
    include_tests: bool = False, report: ReadingReport | None = None
) -> Iterator[Document]:
    """The sources of the running Python's standard library: real text that every machine has."""
    return read_files(standard_library_files(include_tests), report)


def empty_corpus(source, report: ReadingReport) -> InputError:
    """The error for a corpus without text, with the reasons."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(report.skipped.items()))
    return InputError(
        f"found no text in {source} ({reasons or 'only white space'}), expected UTF-8 text; give other text"
    )


def _read_text(file: CorpusFile, report: ReadingReport) -> str | None:
    try:
        data = file.path.read_bytes()
        if file.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
        if b"\0" in data:
            report.skip("binary", file.name)
            return None
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        report.skip("not UTF-8", file.name)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        report.skip("broken archive", file.name)
    except OSError:
        report.skip("unreadable", file.name)
    return None


def _records(file: CorpusFile, text: str) -> Iterator[Document]:
    # Only "\n" ends a record: JSON strings may hold U+2028 and others that splitlines() would cut at.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            raise InputError(
                f"found broken JSON in {file.path} line {number} ({reason}), expected an object a line"
            ) from error
        content = record.get("text") if isinstance(record, dict) else None
        if not isinstance(content, str):
            raise InputError(
                f'found no "text" in {file.path} line {number}, expected an object such as {{"text": "..."}}'
            )
        yield Document(f"{file.name}:{number}", content, file.name)
