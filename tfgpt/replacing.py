"""Writing so that nothing is half-written and nothing is lost: beside, then rename. Loads no TensorFlow."""

import contextlib
import fnmatch
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.filesystem import has_mount, remove_tree, take_owner
from tfgpt.locks import in_use
from tfgpt.paths import check_place_of_directory, check_place_of_file, checked_path
from tfgpt.swapping import (
    MARK,
    SUFFIX,
    alone_with,
    is_temporary,
    put_back,
    remove_leftovers,
    replace_entries,
    replace_whole,
)


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is renamed to `path`, on failure removed.

    Missing parent directories are created. The rename is atomic on POSIX file systems. The file is private
    until then; then it has owner and permissions of the one that it replaces, or the ordinary ones. A
    symbolic link is replaced, not followed.

    Raises:
        InputError: `path` is no path, or a directory, a device or a pipe.
    """
    path = checked_path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file: expected the name of one, or a name that is free")
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with alone_with(path):
            remove_leftovers(path.parent, path.name)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}{MARK}", suffix=SUFFIX)
            os.close(handle)
            temporary = Path(name)
            stack.callback(temporary.unlink, missing_ok=True)
            stack.enter_context(in_use(temporary))
        yield temporary
        os.chmod(temporary, take_owner(temporary, path, 0o666))
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
    next call puts back. A directory that cannot be moved (the current one, one with a mount, one in a parent
    that cannot be written) gets the new entries one after the other instead; what they replace lies in
    `.NAME.tfgpt.aside` within it meanwhile, and is put back if one cannot be moved, or by the next call.
    Processes that replace the same directory do so one after the other; what others write into it between
    the last look and the renaming is lost.

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
        with alone_with(path):
            put_back(path)
            check_replaceable(path, owned)
            is_fixed = path.is_dir() and _is_fixed(path)
            place = path if is_fixed else path.parent
            for each in {path, place} if path.is_dir() else {place}:
                remove_leftovers(each, path.name)
            temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".{path.name}{MARK}", suffix=SUFFIX))
            stack.callback(remove_tree, temporary)
            stack.enter_context(in_use(temporary))
        # Now, that what is written into it inherits the group.
        mode = take_owner(temporary, path, 0o777)
        os.chmod(temporary, 0o700 | mode & stat.S_ISGID)
        yield temporary
        with alone_with(path):
            put_back(path)
            check_replaceable(path, owned)
            if keep is not None:
                _check_no_directory_replaced(path, temporary)
            if is_fixed or not replace_whole(path, temporary, keep, mode):
                replace_entries(path, temporary, keep)


def check_replaceable(path: Path, owned: Sequence[str] | None = None) -> None:
    """`InputError` for a file, and for a directory with an entry that no pattern of `owned` fits.

    `None` fits all.
    """
    check_place_of_directory(path)
    if owned is None or not path.is_dir():
        return
    for entry in sorted(path.iterdir()):
        is_ours = any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in owned)
        if not is_ours and not is_temporary(entry.name, path):
            mine = f", or one that holds nothing but {', '.join(owned)}" if owned else ""
            raise InputError(
                f"found {entry.name} in {path}, expected a new or empty directory{mine}; name another "
                "directory, or move it away"
            )


def _check_no_directory_replaced(path: Path, new: Path) -> None:
    """A file that is written where the user has a directory would take all that is in it away."""
    for entry in sorted(new.iterdir()):
        if not entry.is_dir():
            check_place_of_file(path / entry.name)


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
    return is_current or has_mount(path) or not os.access(path.parent, os.W_OK)
