"""What is asked of the file system to replace something: owners, mounts, removal. Loads no TensorFlow."""

import contextlib
import os
import re
import shutil
import stat
from pathlib import Path


def take_owner(new: Path, old: Path, ordinary: int) -> int:
    """Gives `new`, which tempfile has made private, owner and group of `old`; returns the mode for it.

    That is the mode of `old`, if that is of the same kind, and otherwise the ordinary one of a new entry.
    """
    made = new.stat()
    inherited = made.st_mode & stat.S_ISGID  # of a directory in one that is a group's
    try:
        there = old.lstat()
    except OSError:
        return inherited | (ordinary & ~umask())
    if stat.S_IFMT(there.st_mode) != stat.S_IFMT(made.st_mode):
        return inherited | (ordinary & ~umask())
    for owner in (there.st_uid, -1), (-1, there.st_gid):
        with contextlib.suppress(OSError, AttributeError):  # it takes root, or a group of one's own
            os.chown(new, *owner)
    kept = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO | (stat.S_ISVTX if stat.S_ISDIR(made.st_mode) else 0)
    if new.stat().st_gid != there.st_gid:  # what the group may is not for another group
        kept &= ~stat.S_IRWXG | (there.st_mode & stat.S_IRWXO) << 3
    elif stat.S_ISDIR(made.st_mode):
        kept |= stat.S_ISGID
    return there.st_mode & kept


def umask() -> int:
    """The permissions that new entries lack."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0)  # elsewhere it cannot be read without being set, for all threads
    os.umask(mask)
    return mask


def has_mount(path: Path) -> bool:
    """Whether `path` is where a file system is mounted, or one is mounted below it."""
    try:
        # Those of directories of the same file system look like any other directory, but are listed here.
        lines = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines()
    except OSError:
        return path.is_mount()
    places = [re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines]
    return any(place == str(path) or place.startswith(f"{path}/") for place in places)


def remove_tree(directory: Path) -> None:
    """Removes what can be removed of a directory, also below directories that may not be written."""
    shutil.rmtree(directory, ignore_errors=True)
    if not directory.is_dir() or directory.is_symlink():
        return
    for folder, _, _ in os.walk(directory):  # which follows no links
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(directory, ignore_errors=True)


def link_or_copy(source, target, *, follow_symlinks: bool = False) -> None:
    """Puts a file under a second name: a hard link, or a copy where the file system has none."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)
