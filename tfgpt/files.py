"""Reading JSON; writing so that nothing is half-written: beside, then rename. Loads no TensorFlow."""

import contextlib
import fnmatch
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfgpt.errors import InputError
from tfgpt.locks import in_use, lock

# What stands between the name of what is written and the letters of tempfile, and what ends them: a name that
# nobody else gives, as what a killed process left under it is deleted.
_MARK = ".tfgpt-"
_SUFFIX = ".part"


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is renamed to `path`, on failure removed.

    Missing parent directories are created. The rename is atomic on POSIX file systems. The file is private
    until then; then it has the permissions of the one that it replaces, or the ordinary ones.
    """
    path = user_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent, path.name)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}{_MARK}", suffix=_SUFFIX)
    os.close(handle)
    temporary = Path(name)
    try:
        with in_use(temporary):
            yield temporary
        _set_permissions(temporary, path, 0o666)
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
    crash at any point leaves the old directory, the new one, or the old one as `.NAME.tfgpt.old`, which the
    next call puts back. A directory that cannot be moved (the current one, a mount point, one in a parent
    that cannot be written) gets the new entries one after the other instead. Permissions are those of the
    directory that is replaced, or the ordinary ones; until it is whole, the new one is private.

    Args:
        path: the directory to make or to replace.
        keep: which entries of an existing one stay; none by default.
        owned: patterns of names; an existing directory with any other entry is somebody else's and refused.

    Raises:
        InputError: `path` is no path, a file, or holds what is not `owned`; or a directory, which would be
            lost, stands where a file is to be written beside what is kept.
    """
    path = _real_path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: expected a directory, or a name that is free")
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.with_name(f".{path.name}.tfgpt.old")
    if old.is_dir() and not path.exists():
        os.replace(old, path)
    check_owned(path, owned)
    is_fixed = path.is_dir() and _is_fixed(path)
    place = path if is_fixed else path.parent
    _remove_leftovers(place, path.name)
    temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".{path.name}{_MARK}", suffix=_SUFFIX))
    try:
        with in_use(temporary):
            yield temporary
            check_owned(path, owned)
            if keep is not None:
                _check_none_lost(path, temporary)
            if is_fixed:
                _replace_entries(path, temporary, keep)
            else:
                if keep is not None and path.is_dir():
                    _link_kept(path, temporary, keep)
                _set_permissions(temporary, path, 0o777)
                _swap(path, temporary, old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def user_path(path: str | os.PathLike) -> Path:
    """What a user calls a file or a directory, as a path, with the home directory written out for `~`.

    Raises:
        InputError: it is empty, which would be the current directory, or it cannot be a path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or "\0" in text:
        raise InputError(f"found {path!r}, expected the path of a file or directory")
    if not text:
        raise InputError("the name of a file or directory is empty: expected one, or . for this directory")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"found {text}, but no home directory of that user: write the path out") from None


def check_plain_file(path: Path, expected: str) -> None:
    """`InputError` for a directory or a link to nothing, and for a named pipe, which a reader waits for."""
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"{path} is no file: expected {expected}; restore it, or remove it")


def check_owned(path: Path, owned: Sequence[str] | None) -> None:
    """`InputError` for a directory with an entry whose name no pattern of `owned` has; `None` allows all."""
    if owned is None or not path.is_dir():
        return
    for entry in sorted(path.iterdir()):
        if not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in (*owned, f".*{_MARK}*{_SUFFIX}")):
            mine = f", or one that holds nothing but {', '.join(owned)}" if owned else ""
            raise InputError(
                f"found {entry.name} in {path}, expected a new or empty directory{mine}; name another "
                "directory, or move it away"
            )


def visible_entries(directory: str | os.PathLike) -> list[Path]:
    """What a directory holds, sorted, hidden files left out; nothing where there is none."""
    directory = Path(directory)
    there = directory.iterdir() if directory.is_dir() else ()
    return sorted(entry for entry in there if not entry.name.startswith("."))


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file; InputError when the file is missing, broken, or holds anything else."""
    import json

    path = Path(path)
    check_plain_file(path, "JSON")
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


def _check_none_lost(path: Path, new: Path) -> None:
    for entry in sorted(new.iterdir()):
        there = path / entry.name
        if there.is_dir() and not there.is_symlink() and not entry.is_dir():
            raise InputError(f"found a directory at {there}, expected a file to replace; move it away")


def _real_path(path: str | os.PathLike) -> Path:
    try:
        return Path(os.path.realpath(user_path(path)))
    except FileNotFoundError:
        raise InputError(f"the current directory is gone, so {path} is nowhere: change to another") from None


def _is_fixed(path: Path) -> bool:
    try:
        current = Path(os.path.realpath(os.curdir))
    except FileNotFoundError:  # somebody has removed it
        current = None
    is_current = current is not None and (path == current or path in current.parents)
    return is_current or path.is_mount() or not os.access(path.parent, os.W_OK)


def _set_permissions(new: Path, old: Path, ordinary: int) -> None:
    """Gives `new`, which tempfile has made private, owner and permissions of `old`, or the ordinary ones."""
    if old.exists():
        there = old.stat()
        if hasattr(os, "chown"):
            with contextlib.suppress(OSError):  # somebody else's; the group, at least, may be shared
                os.chown(new, -1, there.st_gid)
                os.chown(new, there.st_uid, -1)
        os.chmod(new, stat.S_IMODE(there.st_mode))
    else:
        inherited = new.stat().st_mode & stat.S_ISGID  # of a directory in one that is a group's
        os.chmod(new, inherited | (ordinary & ~_umask()))


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
    leftover = re.compile(re.escape(f".{name}{_MARK}") + r"\w{8}" + re.escape(_SUFFIX))
    for entry in list(directory.iterdir()) if os.access(directory, os.R_OK | os.W_OK) else ():
        is_plain = entry.is_file() or entry.is_dir()  # opening a pipe would wait for ever
        if not leftover.fullmatch(entry.name) or entry.is_symlink() or not is_plain:
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
