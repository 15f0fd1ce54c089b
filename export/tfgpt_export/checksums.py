"""SHA256SUMS: written last, and checked by whoever received the directory (or by `sha256sum -c`)."""

import hashlib
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
    path = directory / CHECKSUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}


def compare_checksums(directory: Path) -> dict:
    """An entry for the report: every listed file is there, and is the one that was written."""
    listed = read_checksums(directory)
    failures = []
    if not listed:
        failures.append(f"found no {CHECKSUMS} in {directory}, expected the list of its files; copy it again")
    for name, digest in listed.items():
        if not (directory / name).is_file():
            failures.append(f"{name} is missing: copy the export again")
        elif sha256(directory / name) != digest:
            failures.append(f"{name} is not the file that was exported: copy the export again")
    unknown = [path.relative_to(directory).as_posix() for path in files_in(directory)]
    unknown = [name for name in unknown if name not in listed and name != CHECKSUMS]
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
