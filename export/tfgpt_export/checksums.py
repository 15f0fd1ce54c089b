"""SHA256SUMS: written last, and checked by whoever received the directory (or by `sha256sum -c`)."""

import hashlib
import re
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.files import read_json, write_text

CHECKSUMS = "SHA256SUMS"
REPORT = "verification.json"
# Folders that programs read as a whole, whatever else is in them.
WHOLE = ("onnx/", "saved_model/", "triton/", "tfserving/")


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

    Files that the report names and the list does not, and such as lie in a folder of `WHOLE`, are failures
    too; others may have been laid beside them.
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
    there = {path.relative_to(directory).as_posix() for path in files_in(directory)}
    unknown = sorted(there - listed.keys() - {CHECKSUMS})
    exported = _exported(directory) - listed.keys()
    failures += [
        f"{name} was exported and is missing: copy the export again" for name in sorted(exported - there)
    ]
    if listed:
        failures += [
            f"{name} is not listed in {CHECKSUMS}: copy the export again"
            for name in unknown
            if name in exported or name.startswith(WHOLE)
        ]
    return {
        "artifact": "files",
        "kind": "checksums",
        "files": len(listed),
        "unknown": unknown,
        "failures": failures,
    }


def read_report(directory: Path) -> dict:
    """What verification.json says; nothing where it is missing or damaged, which the checksums tell."""
    try:
        return read_json(directory / REPORT)
    except InputError:
        return {}


def _exported(directory: Path) -> set[str]:
    """The report, and the files that it says were there before it; exports of version 0.1.0 say none."""
    names = read_report(directory).get("files")
    names = names if isinstance(names, list) else []
    return {REPORT, *(name for name in names if isinstance(name, str))}


def files_in(directory: Path) -> list[Path]:
    """Every file below a directory, sorted."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
