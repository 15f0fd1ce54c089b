"""One directory in the place of another, and what a process left that died meanwhile. Loads no TensorFlow."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.filesystem import has_mount, link_or_copy, remove_tree
from tfgpt.locks import alone_at, lock

# What is written is `.NAME.tfgpt-xxxxxxxx.part` until it is whole; a directory is then `.NAME.tfgpt.new`,
# while the one before is `.NAME.tfgpt.old`. Nobody else gives such names: what a killed process left goes.
MARK = ".tfgpt-"
SUFFIX = ".part"
# A directory that cannot be renamed: one of another layer of a container's file system, where something is
# mounted, or somebody else's in a directory like /tmp.
_NOT_MOVABLE = (errno.EXDEV, errno.EBUSY, errno.EPERM)


def replace_whole(path: Path, new: Path, keep: Callable[[Path], bool] | None, mode: int) -> bool:
    """Swaps the directories; `False`, and all is as before, where the old one cannot be moved."""
    kept = _link_kept(path, new, keep) if keep is not None and path.is_dir() else []
    os.chmod(new, mode | 0o700)  # which renaming and removing it may need
    try:
        _swap(path, new)
    except OSError as error:
        if error.errno not in _NOT_MOVABLE or not path.is_dir():
            raise
        for entry in kept:
            _discard(entry, path.name)
        return False
    os.chmod(path, mode)
    return True


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.tfgpt.{kind}")


def _aside(path: Path) -> Path:
    """Within `path`; no name that another path has beside it."""
    return path / f".{path.name}.tfgpt.aside"


def is_temporary(name: str, path: Path) -> bool:
    """Whether an entry of `path` is there only while it is being replaced."""
    return _is_leftover(name, path.name) or name in (_lock_of(path).name, _aside(path).name)


def _lock_of(path: Path) -> Path:
    """Where processes that replace `path` wait for each other: beside it, or within if need be."""
    lock_file = _beside(path, "lock")
    is_within = path.is_dir() and not os.access(path.parent, os.W_OK)
    return path / lock_file.name if is_within else lock_file


def alone_with(path: Path) -> contextlib.AbstractContextManager:
    lock_file = _lock_of(path)
    return alone_at(lock_file) if os.access(lock_file.parent, os.W_OK) else contextlib.nullcontext()


def _swap(path: Path, temporary: Path) -> None:
    """`path` -> old, new -> `path`; while there is something new, the old one is not given up."""
    old, new = _beside(path, "old"), _beside(path, "new")
    os.replace(temporary, new)
    try:
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)
    except BaseException:  # Ctrl-C, too
        if old.exists() and not path.exists():
            os.replace(old, path)
        if new.exists():
            os.replace(new, temporary)
        raise
    with contextlib.suppress(OSError):  # the next call does it
        _discard(old, path.name)


def put_back(path: Path) -> None:
    """Undoes what a process had begun that died within `_swap` or `replace_entries`."""
    old, new = _beside(path, "old"), _beside(path, "new")
    if old.is_dir() and not old.is_symlink():
        _check_ours(old)
        if path.is_dir() and new.exists():  # which somebody has made since
            with contextlib.suppress(OSError):
                path.rmdir()
        if not path.exists():
            os.replace(old, path)
        elif new.exists():
            raise InputError(
                f"found {path}, and beside it {old.name}, which was there before a call was killed: expected "
                "one of them; move the other away"
            )
        else:
            _discard(old, path.name)
    _discard(new, path.name)
    if path.is_dir():
        _put_entries_back(path)


def _check_ours(old: Path) -> None:
    """In a directory where everybody may write, anybody may have put something there."""
    owner = old.lstat().st_uid
    if hasattr(os, "geteuid") and owner not in (os.geteuid(), old.parent.stat().st_uid):
        raise InputError(f"found {old}, which belongs to another user: expected nothing there; remove it")


def replace_entries(path: Path, new: Path, keep: Callable[[Path], bool] | None) -> None:
    """New entries take the place of old ones, which go aside and are deleted in the end: all, or none."""
    entries = sorted(new.iterdir())
    wins = {entry.name for entry in entries}
    old = [entry for entry in sorted(path.iterdir()) if not is_temporary(entry.name, path)]
    old = [entry for entry in old if entry.name in wins or keep is None or not keep(entry)]
    for entry in old:
        if has_mount(entry):
            raise InputError(f"found {entry}, where a file system is mounted: unmount it to replace {path}")
    aside = _aside(path)
    try:
        for folder in (aside, aside / "old", aside / "new"):
            folder.mkdir()
        for entry in old:
            os.replace(entry, aside / "old" / entry.name)
        for entry in entries:
            (aside / "new" / entry.name).touch()
        for entry in entries:
            os.replace(entry, path / entry.name)
        _discard(aside, path.name)
    except BaseException:  # Ctrl-C, too
        _put_entries_back(path)
        raise


def _put_entries_back(path: Path) -> None:
    """Each step once more where it has been done: this may be killed, too."""
    aside = _aside(path)
    for entry in _entries(aside / "new"):
        _discard(path / entry.name, path.name)
        entry.unlink()
    for entry in _entries(aside / "old"):
        os.replace(entry, path / entry.name)
    _discard(aside, path.name)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _discard(path: Path, of: str) -> None:
    """Removes a file or a directory: the latter, or what cannot be removed of it, as a leftover of `of`."""
    if path.is_dir() and not path.is_symlink():
        garbage = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{of}{MARK}", suffix=SUFFIX))
        os.replace(path, garbage)
        remove_tree(garbage)
    else:
        path.unlink(missing_ok=True)


def _link_kept(old: Path, new: Path, keep: Callable[[Path], bool]) -> list[Path]:
    """Puts what is kept of `old` into `new`, too; returns what that is there."""
    kept = []
    for entry in old.iterdir():
        there = new / entry.name
        if os.path.lexists(there) or is_temporary(entry.name, old) or not keep(entry):
            continue
        kept.append(there)
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, there, symlinks=True, copy_function=link_or_copy)
        else:
            link_or_copy(entry, there)
    return kept


def _is_leftover(name: str, of: str) -> bool:
    """Whether a name is one that tempfile has made for what is called `of`."""
    return re.fullmatch(re.escape(f".{of}{MARK}") + r"\w{8}" + re.escape(SUFFIX), name) is not None


def remove_leftovers(directory: Path, name: str) -> None:
    """Deletes the temporary files and directories for `name` whose process has died."""
    for entry in list(directory.iterdir()) if os.access(directory, os.R_OK | os.W_OK) else ():
        if not _is_leftover(entry.name, name):
            continue
        with contextlib.suppress(OSError):
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                continue  # opening a pipe would wait for ever
            handle = os.open(entry, os.O_RDONLY)
            try:
                if lock(handle):
                    remove_tree(entry) if entry.is_dir() else entry.unlink()
            finally:
                os.close(handle)
