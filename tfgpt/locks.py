"""Locks between processes, which end with the process that holds them. Loads no TensorFlow."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.paths import check_place_of_directory

try:
    import fcntl
except ImportError:  # not on Windows: what a killed process leaves stays until somebody deletes it
    fcntl = None


@contextlib.contextmanager
def working_in(directory: str | os.PathLike) -> Iterator[None]:
    """Makes `directory` and keeps other processes that ask the same from working in it meanwhile.

    Raises:
        InputError: another process is at work there, or `directory` is a file.
    """
    directory = Path(directory)
    check_place_of_directory(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"found another tfgpt at work in {directory}, expected one at a time; wait for it, or name "
                "another directory"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def in_turn(directory: str | os.PathLike) -> Iterator[None]:
    """Makes `directory` and waits until no other process is within this block for the same one.

    The lock ends with its process, however that ends. A file system without locks lets everybody in at once.
    A directory that was made here and has stayed empty is removed again.
    """
    directory = Path(directory)
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with alone_at(directory / ".lock"):
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it holds something
                directory.rmdir()


@contextlib.contextmanager
def alone_at(file: Path) -> Iterator[None]:
    """Waits until no other process is within this block for the same `file`, which is there meanwhile.

    Where the file cannot be made or locked, everybody is let in at once.
    """
    holder = _locked(file) if fcntl is not None else None
    try:
        yield
    finally:
        if holder is not None:
            try:
                with contextlib.suppress(OSError):  # another user's, in a directory like /tmp
                    file.unlink(missing_ok=True)
            finally:
                holder.close()


@contextlib.contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process, so that others can tell work from what a killed one left."""
    if fcntl is None:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)


def _locked(path: Path) -> io.FileIO | None:
    """The file at `path`, which this process alone has locked; waits for it. `None`: it cannot be.

    An object, which lets the lock go also where Ctrl-C comes between two lines.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = io.FileIO(path, opener=lambda name, flags: _opened(name))
        except OSError:
            return None
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    return file
        except OSError:  # a file system without locks
            return file
        file.close()  # whoever had it before has deleted it: this one is nobody's any more


def _opened(path: str) -> int:
    # Not through a link that somebody may have put there; another user's may perhaps be read only.
    flags = os.O_CREAT | os.O_NOFOLLOW
    try:
        return os.open(path, os.O_RDWR | flags, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags, 0o666)


def lock(handle: int) -> bool:
    """Whether an open file or directory is now locked by this process alone; waits for nobody."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system knows no locks
        return False
    return True
