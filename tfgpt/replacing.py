"""Writing so that nothing is half-written and nothing is lost: beside, then rename. Loads no TensorFlow."""

import contextlib
import fnmatch
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.locks import alone_at, in_use, lock
from tfgpt.paths import checked_path

# What is written is `.NAME.tfgpt-xxxxxxxx.part` until it is whole, and a directory that is being replaced is
# `.NAME.tfgpt.old`: names that nobody else gives, as what a killed process left under them is deleted.
_MARK = ".tfgpt-"
_SUFFIX = ".part"
_OLD = ".tfgpt.old"


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is renamed to `path`, on failure removed.

    Missing parent directories are created. The rename is atomic on POSIX file systems. The file is private
    until then; then it has owner and permissions of the one that it replaces, or the ordinary ones. A
    symbolic link is replaced, not followed.

    Raises:
        InputError: `path` is no path.
    """
    path = checked_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _alone_with(path):
            _remove_leftovers(path.parent, path.name)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}{_MARK}", suffix=_SUFFIX)
            os.close(handle)
            temporary = Path(name)
            stack.callback(temporary.unlink, missing_ok=True)
            stack.enter_context(in_use(temporary))
        yield temporary
        os.chmod(temporary, _take_owner(temporary, path, 0o666))
        os.replace(temporary, path)


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
    crash at any point leaves the old directory, the new one, or the old one as `.NAME.tfgpt.old`, which the
    next call puts back. A directory that cannot be moved (the current one, a mount point, one in a parent
    that cannot be written) gets the new entries one after the other instead; what they replace lies in
    `.NAME.tfgpt.old` within it meanwhile, and is put back if one cannot be moved. Processes that replace the
    same directory do so one after the other.

    Owner and permissions are those of the directory that is replaced, or the ordinary ones; until it is
    whole, the new one is private. New entries have the ordinary ones, and the directory's group where that
    is inherited. Access lists and extended attributes are not kept.

    Args:
        path: the directory to make or to replace.
        keep: which entries of an existing one stay; none by default.
        owned: patterns of names; an existing directory with any other entry is somebody else's and refused.

    Raises:
        InputError: `path` is no path, a file, or holds what is not `owned`; or a directory, which would be
            lost, stands where a file is to be written beside what is kept.
    """
    path = _real_path(path)
    if not path.is_dir():
        check_replaceable(path, owned)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _alone_with(path):
            _put_back(path)
            check_replaceable(path, owned)
            is_fixed = path.is_dir() and _is_fixed(path)
            place = path if is_fixed else path.parent
            for each in {path, place} if path.is_dir() else {place}:
                _remove_leftovers(each, path.name)
            temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".{path.name}{_MARK}", suffix=_SUFFIX))
            stack.callback(_remove, temporary)
            stack.enter_context(in_use(temporary))
        # Now, that what is written into it inherits the group.
        mode = _take_owner(temporary, path, 0o777)
        os.chmod(temporary, 0o700 | mode & stat.S_ISGID)
        yield temporary
        with _alone_with(path):
            check_replaceable(path, owned)
            if keep is not None:
                _check_no_directory_replaced(path, temporary)
            if is_fixed:
                _replace_entries(path, temporary, keep)
            else:
                if keep is not None and path.is_dir():
                    _link_kept(path, temporary, keep)
                os.chmod(temporary, mode | 0o700)  # which renaming and removing it may need
                _swap(path, temporary)
                os.chmod(path, mode)


def check_replaceable(path: Path, owned: Sequence[str] | None = None) -> None:
    """`InputError` for a file, and for a directory with an entry that no pattern of `owned` fits.

    `None` fits all.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: expected a directory, or a name that is free")
    if owned is None or not path.is_dir():
        return
    for entry in sorted(path.iterdir()):
        is_ours = any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in owned)
        if not is_ours and not _is_leftover(entry.name, path.name) and entry.name != _lock_of(path).name:
            mine = f", or one that holds nothing but {', '.join(owned)}" if owned else ""
            raise InputError(
                f"found {entry.name} in {path}, expected a new or empty directory{mine}; name another "
                "directory, or move it away"
            )


def _check_no_directory_replaced(path: Path, new: Path) -> None:
    """A file that is written where the user has a directory would take all that is in it away."""
    for entry in sorted(new.iterdir()):
        there = path / entry.name
        if there.is_dir() and not there.is_symlink() and not entry.is_dir():
            raise InputError(f"found a directory at {there}, expected a file to replace; move it away")


def _real_path(path: str | os.PathLike) -> Path:
    try:
        real = Path(os.path.realpath(checked_path(path)))
    except FileNotFoundError:
        raise InputError(f"the current directory is gone, so {path} is nowhere: change to another") from None
    if not real.name:
        raise InputError(f"found {path}, the root of the file system: expected a directory below it")
    return real


def _is_fixed(path: Path) -> bool:
    try:
        current = Path(os.path.realpath(os.curdir))
    except FileNotFoundError:  # somebody has removed it
        current = None
    is_current = current is not None and (path == current or path in current.parents)
    return is_current or path.is_mount() or not os.access(path.parent, os.W_OK)


def _take_owner(new: Path, old: Path, ordinary: int) -> int:
    """Gives `new`, which tempfile has made private, owner and group of `old`; returns the mode for it.

    That is the mode of `old`, if that is of the same kind, and otherwise the ordinary one of a new entry.
    """
    made = new.stat()
    inherited = made.st_mode & stat.S_ISGID  # of a directory in one that is a group's
    try:
        there = old.lstat()
    except OSError:
        return inherited | (ordinary & ~_umask())
    if stat.S_IFMT(there.st_mode) != stat.S_IFMT(made.st_mode):
        return inherited | (ordinary & ~_umask())
    for owner in (there.st_uid, -1), (-1, there.st_gid):
        with contextlib.suppress(OSError, AttributeError):  # it takes root, or a group of one's own
            os.chown(new, *owner)
    kept = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
    if stat.S_ISDIR(made.st_mode):
        kept |= stat.S_ISVTX | (stat.S_ISGID if new.stat().st_gid == there.st_gid else 0)
    return there.st_mode & kept


def _old_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{_OLD}")


def _lock_of(path: Path) -> Path:
    """Where processes that replace `path` wait for each other: beside it, or within if need be."""
    place = path if path.is_dir() and not os.access(path.parent, os.W_OK) else path.parent
    return place / f".{path.name}.tfgpt.lock"


def _alone_with(path: Path) -> contextlib.AbstractContextManager:
    lock_file = _lock_of(path)
    return alone_at(lock_file) if os.access(lock_file.parent, os.W_OK) else contextlib.nullcontext()


def _swap(path: Path, new: Path) -> None:
    old = _old_of(path)
    _discard(old)
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    _discard(old)


def _put_back(path: Path) -> None:
    """Undoes what a process had begun that died within `_swap` or `_replace_entries`."""
    old = _old_of(path)
    if old.is_dir() and not path.exists():
        os.replace(old, path)
    _put_entries_back(path, _old_of(path / path.name))


def _put_entries_back(path: Path, aside: Path) -> None:
    for entry in list(aside.iterdir()) if aside.is_dir() else ():
        _discard(path / entry.name)  # half of what was to replace it
        os.replace(entry, path / entry.name)
    if aside.is_dir():
        aside.rmdir()


def _discard(path: Path) -> None:
    """Removes a file or a directory: the latter, or what cannot be removed of it, under a leftover's name."""
    if path.is_dir() and not path.is_symlink():
        of = path.name.removeprefix(".").removesuffix(_OLD)
        garbage = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{of}{_MARK}", suffix=_SUFFIX))
        os.replace(path, garbage)
        _remove(garbage)
    else:
        path.unlink(missing_ok=True)


def _remove(directory: Path) -> None:
    with contextlib.suppress(OSError):
        if not directory.is_symlink():
            os.chmod(directory, 0o700)  # one that may not be written keeps its entries
    shutil.rmtree(directory, ignore_errors=True)


def _replace_entries(path: Path, new: Path, keep: Callable[[Path], bool] | None) -> None:
    """New entries take the place of old ones, which go aside and are deleted in the end: all, or none."""
    entries = sorted(new.iterdir())
    wins = {entry.name for entry in entries}
    passed_over = {new, _lock_of(path)}
    old = [entry for entry in sorted(path.iterdir()) if entry not in passed_over]
    aside = _old_of(path / path.name)
    aside.mkdir()
    try:
        for entry in old:
            if entry.name in wins or keep is None or not keep(entry):
                os.replace(entry, aside / entry.name)
        for entry in entries:
            os.replace(entry, path / entry.name)
    except BaseException:  # Ctrl-C, too
        for entry in entries:
            if not os.path.lexists(entry):
                os.replace(path / entry.name, entry)
        _put_entries_back(path, aside)
        raise
    _discard(aside)


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


def _is_leftover(name: str, of: str) -> bool:
    """Whether a name is one that tempfile has made for what is called `of`."""
    return re.fullmatch(re.escape(f".{of}{_MARK}") + r"\w{8}" + re.escape(_SUFFIX), name) is not None


def _remove_leftovers(directory: Path, name: str) -> None:
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
                    _remove(entry) if entry.is_dir() else entry.unlink()
            finally:
                os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
