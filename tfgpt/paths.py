"""Paths as users give them, and what is looked at before it is opened. Loads no TensorFlow."""

import os
from pathlib import Path

from tfgpt.errors import InputError


def user_path(path: str | os.PathLike) -> Path:
    """What a user calls a file or a directory, as a path, with the home directory written out for `~`.

    For the outermost function or command that takes the path: what is called by others expands nothing.

    Raises:
        InputError: it is an empty text, which would be the current directory, or it cannot be a path.
    """
    checked = checked_path(path)
    text = os.path.expanduser(path)
    if text.startswith("~") and not os.path.lexists(text):
        raise InputError(f"found {text}, but no home directory of that user: write the path out")
    # Once more through here, ./~name would lose its dot and be taken for a user's home.
    return Path.cwd() / text if str(checked).startswith("~") and text == os.fspath(path) else Path(text)


def checked_path(path: str | os.PathLike) -> Path:
    """`InputError` for what cannot be a path, or is an empty text, which would be the current directory."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or "\0" in text:
        raise InputError(f"found {path!r}, expected the path of a file or directory")
    if not text:
        raise InputError("the name of a file or directory is empty: expected one, or . for this directory")
    return Path(text)


def check_plain_file(path: Path, expected: str) -> None:
    """`InputError` where `path` is there, but a directory, a link to nothing, or a pipe, which never ends."""
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"{path} is no file: expected {expected}; restore it, or remove it")


def check_place_of_directory(path: Path) -> None:
    """`InputError` where a directory is to be made or used, and something else stands."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: expected a directory, or a name that is free")


def check_place_of_file(path: Path) -> None:
    """`InputError` where a file is to be written, and a directory or a link to one stands, to be lost."""
    if path.is_dir():
        raise InputError(f"found a directory at {path}, expected a file to replace; move it away")


def visible_entries(directory: str | os.PathLike) -> list[Path]:
    """What a directory holds, sorted, hidden files left out; nothing where there is none."""
    directory = Path(directory)
    there = directory.iterdir() if directory.is_dir() else ()
    return sorted(entry for entry in there if not entry.name.startswith("."))
