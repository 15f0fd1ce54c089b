"""SHA256SUMS: written last, and checked by whoever received the directory (or by `sha256sum -c`)."""

import hashlib
import re
from pathlib import Path

from tfgpt.files import write_text

CHECKSUMS = "SHA256SUMS"


def write_checksums(directory: Path) -> None:
    """Lists every other file of a directory."""
    names = [path.relative_to(directory).as_posix() for path in files_in(directory)]
    lines = [f"{sha256(directory / name)}  {name}" for name in names if name != CHECKSUMS]
    write_text(directory / CHECKSUMS, "\n".join(lines) + "\n")


def read_checksums(directory: Path) -> dict[str, str]:
    """Path within the directory -> checksum; empty where there is no list."""
    return _parsed(directory)[0]


def _parsed(directory: Path) -> tuple[dict[str, str], bool]:
    """The same, and whether the list is whole lines of that kind."""
    path = directory / CHECKSUMS
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in text.splitlines()]
    is_whole = text.endswith("\n") and None not in lines
    return {line[2]: line[1] for line in lines if line}, is_whole


def compare_checksums(directory: Path) -> dict:
    """An entry for the report: every listed file is there, and is the one that was written.

    Graphs and weights that are not listed are failures too; other files may have been laid beside them.
    """
    listed, is_whole = _parsed(directory)
    failures = []
    if not listed:
        failures.append(f"found no {CHECKSUMS} in {directory}, expected the list of its files; copy it again")
    elif not is_whole:
        failures.append(f"{CHECKSUMS} is not a whole list of checksums and files: copy the export again")
    for name, digest in listed.items():
        if not (directory / name).is_file():
            failures.append(f"{name} is missing: copy the export again")
        elif sha256(directory / name) != digest:
            failures.append(f"{name} is not the file that was exported: copy the export again")
    unknown = [path.relative_to(directory).as_posix() for path in files_in(directory)]
    unknown = [name for name in unknown if name not in listed and name != CHECKSUMS]
    if listed:
        failures += [
            f"{name} is not listed in {CHECKSUMS}: copy the export again"
            for name in unknown
            if name.startswith(("onnx/", "saved_model/"))
        ]
    return {
        "artifact": "files",
        "kind": "checksums",
        "files": len(listed),
        "unknown": unknown,
        "failures": failures,
    }


def files_in(directory: Path) -> list[Path]:
    """Every file below a directory, sorted."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
