"""Writing so that nothing is ever half-written: beside, then rename. Loads no TensorFlow."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tfgpt.errors import InputError


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is renamed to `path`, on failure removed.

    Missing parent directories are created. The rename is atomic on POSIX file systems.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    # mkstemp makes files private; a model that is shipped should have the ordinary permissions.
    os.chmod(name, 0o666 & ~_umask())
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_directory(
    path: str | os.PathLike, keep: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yields an empty temporary directory beside `path`; on success it takes the place of `path`.

    Entries of an existing directory for which `keep(entry)` is true are copied over, unless the new directory
    has its own of that name.

    An existing directory at `path` is moved aside first and removed only after the new one stands, so a
    crash at any point leaves the old directory, the new one, or the old one under its `.old` name.

    Raises:
        InputError: `path` is a file.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: expected a directory, or a name that is free")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    os.chmod(temporary, 0o777 & ~_umask())
    try:
        yield temporary
        if keep is not None and path.is_dir():
            _copy_kept(path, temporary, keep)
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, atomically."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value, indent: int | None = 2) -> None:
    """Writes `value` as JSON to `path`, atomically, with a final newline."""
    import json

    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def _copy_kept(old: Path, new: Path, keep: Callable[[Path], bool]) -> None:
    for entry in old.iterdir():
        if (new / entry.name).exists() or not keep(entry):
            continue
        if entry.is_dir():
            shutil.copytree(entry, new / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, new / entry.name, follow_symlinks=False)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
