"""Reading JSON; writing so that nothing is half-written: beside, then rename. Loads no TensorFlow."""

import contextlib
import fnmatch
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfgpt.errors import InputError
from tfgpt.locks import in_use, lock


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is renamed to `path`, on failure removed.

    Missing parent directories are created. The rename is atomic on POSIX file systems.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent, path.name)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    # mkstemp makes files private; a model that is shipped should have the ordinary permissions.
    os.chmod(name, 0o666 & ~_umask())
    temporary = Path(name)
    try:
        with in_use(temporary):
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_directory(
    path: str | os.PathLike,
    keep: Callable[[Path], bool] | None = None,
    owned: Sequence[str] | None = None,
) -> Iterator[Path]:
    """Yields an empty temporary directory beside `path`; on success it takes the place of `path`.

    Entries of an existing directory for which `keep(entry)` is true come along, as hard links where the file
    system has them, unless the new directory has its own of that name. A symbolic link is followed.

    An existing directory at `path` is moved aside first and removed only after the new one stands, so a
    crash at any point leaves the old directory, the new one, or the old one under its `.old` name, which the
    next call puts back. A directory that cannot be moved (the current one, a mount point, one in a parent
    that cannot be written) gets the new entries one after the other instead.

    Args:
        path: the directory to make or to replace.
        keep: which entries of an existing one stay; none by default.
        owned: patterns of names; an existing directory with any other entry is somebody else's and refused.

    Raises:
        InputError: `path` is empty, a file, or holds what is not `owned`.
    """
    if not os.fspath(path):  # which would be the current directory
        raise InputError("the name of the directory to write is empty: expected one, or . for this directory")
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: expected a directory, or a name that is free")
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.with_name(f".{path.name}.old")
    if old.is_dir() and not path.exists():
        os.replace(old, path)
    _check_owned(path, owned)
    is_fixed = path.is_dir() and _is_fixed(path)
    place = path if is_fixed else path.parent
    _remove_leftovers(place, path.name)
    temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".{path.name}.", suffix=".part"))
    os.chmod(temporary, 0o777 & ~_umask())
    try:
        with in_use(temporary):
            yield temporary
            _check_owned(path, owned)
            if is_fixed:
                _replace_entries(path, temporary, keep)
            else:
                if keep is not None and path.is_dir():
                    _link_kept(path, temporary, keep)
                _swap(path, temporary, old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def visible_entries(directory: str | os.PathLike) -> list[Path]:
    """What a directory holds, sorted, hidden files left out; nothing where there is none."""
    directory = Path(directory)
    there = directory.iterdir() if directory.is_dir() else ()
    return sorted(entry for entry in there if not entry.name.startswith("."))


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file; InputError when the file is missing, broken, or holds anything else."""
    import json

    path = Path(path)
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise InputError(f"{path} is no file: expected JSON")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: expected a directory with a {path.name}") from None
    except NotADirectoryError:
        raise InputError(f"{path.parent} is a file: expected a directory with a {path.name}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): restore or download it again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}: expected a JSON object")
    return values


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, atomically."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value, indent: int | None = 2) -> None:
    """Writes `value` as JSON to `path`, atomically, with a final newline."""
    import json

    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def _check_owned(path: Path, owned: Sequence[str] | None) -> None:
    if owned is None or not path.is_dir():
        return
    for entry in sorted(path.iterdir()):
        if not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in (*owned, ".*.part")):
            raise InputError(
                f"found {entry.name} in {path}, expected a new or empty directory, or one that holds nothing "
                f"but {', '.join(owned)}; name another directory, or move it away"
            )


def _is_fixed(path: Path) -> bool:
    current = Path(os.path.realpath(os.curdir))
    return (
        path == current or path in current.parents or path.is_mount() or not os.access(path.parent, os.W_OK)
    )


def _swap(path: Path, new: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _replace_entries(path: Path, new: Path, keep: Callable[[Path], bool] | None) -> None:
    """New entries take the place of old ones, which go into a directory within `new`, deleted in the end."""
    entries = sorted(new.iterdir())
    aside = Path(tempfile.mkdtemp(dir=new))
    wins = {entry.name for entry in entries}
    for entry in sorted(path.iterdir()):
        if entry != new and (entry.name in wins or keep is None or not keep(entry)):
            os.replace(entry, aside / entry.name)
    for entry in entries:
        os.replace(entry, path / entry.name)


def _link_kept(old: Path, new: Path, keep: Callable[[Path], bool]) -> None:
    for entry in old.iterdir():
        if os.path.lexists(new / entry.name) or not keep(entry):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=link_or_copy)
        else:
            link_or_copy(entry, new / entry.name)


def link_or_copy(source, target, *, follow_symlinks: bool = False) -> None:
    """Puts a file under a second name: a hard link, or a copy where the file system has none."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def _remove_leftovers(directory: Path, name: str) -> None:
    """Deletes the temporary files and directories for `name` whose process has died."""
    prefix, suffix = f".{name}.", ".part"
    for entry in list(directory.iterdir()) if os.access(directory, os.R_OK | os.W_OK) else ():
        middle = entry.name[len(prefix) : -len(suffix)]
        is_ours = entry.name.startswith(prefix) and entry.name.endswith(suffix)
        # What tempfile puts between them has no dot; a longer name is that of another file.
        if not is_ours or not middle or "." in middle or entry.is_symlink():
            continue
        with contextlib.suppress(OSError):
            handle = os.open(entry, os.O_RDONLY)
            try:
                if lock(handle):
                    shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
            finally:
                os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
