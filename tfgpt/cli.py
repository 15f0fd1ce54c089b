"""The command line: finds the command, and turns errors into one line and an exit code.

Exit codes: 0 success; 2 wrong use (one line: what was found, what was expected, what to do); 1 a failure
while running; 130 interrupted; 141 the reader of standard output has gone.
"""

import _thread
import argparse
import contextlib
import errno
import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import import_module

from tfgpt._version import __version__
from tfgpt.errors import InputError

COMMANDS = {
    "quickstart": "the whole job on this machine: corpus, training, export, verification, generation",
    "train": "train a model from a recipe; an interrupted run goes on where it was",
    "evaluate": "loss, perplexity and bits per byte of a model on a text",
    "export": "model directory -> ONNX and SavedModel, verified against Keras",
    "verify": "compare an export with Keras again, where it was received; a page and JSON",
    "generate": "continue a prompt, with a model directory or an export",
    "convert": "a published checkpoint -> a model directory",
    "models": "the families and their published sizes: parameters, context, licence, where the weights are",
}

INTERRUPTED = "interrupted; the same command goes on from here, or starts anew"
# What a wrong path raises; other OSErrors (a full disk) are failures while running.
PATH_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
PATH_ERROR_NUMBERS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)
# A Ctrl-C that has not ended the command by then was caught by somebody who went on.
LOST_AFTER_SECONDS = 1.0


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    _write_any_character()
    interrupts: list[int] = []
    try:
        with _heard_interrupts(interrupts):
            arguments = build_parser().parse_args(argv)
            code = import_module(f"tfgpt.commands.{arguments.command}").run(arguments) or 0
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a reader that has gone is no traceback
            return code
    except KeyboardInterrupt:
        return _complain(INTERRUPTED, 130)
    except BrokenPipeError:
        # The reader has gone (`tfgpt generate ... | head`); Python must not complain again at exit.
        _give_up_standard_output()
        return 141
    except Exception as error:  # whatever a library raises, a user reads one line
        if os.environ.get("TFGPT_TRACEBACK"):
            raise
        # A library that catches everything may have made another error of Ctrl-C.
        return _complain(INTERRUPTED, 130) if interrupts else _complain(*_explained(error))


@contextlib.contextmanager
def _heard_interrupts(interrupts: list[int]) -> Iterator[None]:
    """Notes every Ctrl-C; one that is lost comes again.

    It is lost in a callback of the garbage collector, and in a library that catches everything and goes on,
    as some do while they are imported.
    """
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    ended, ending = threading.Event(), threading.Lock()
    noted, repeated = queue.SimpleQueue(), []  # what a handler may use whatever it has interrupted

    def note(number, frame):
        is_repeated = bool(repeated)
        repeated.clear()
        interrupts.append(number)
        noted.put(number)
        if not (is_repeated and _is_unwinding(sys.exc_info()[1])):
            signal.default_int_handler(number, frame)

    def repeat():
        while noted.get() is not None and not ended.wait(LOST_AFTER_SECONDS):
            with ending:
                if not ended.is_set():
                    repeated.append(True)
                    _interrupt_main_thread()

    def keep(unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            noted.put(signal.SIGINT)
        else:
            hook(unraisable)

    is_ours = handler is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    try:
        sys.unraisablehook = keep
        if is_ours:
            signal.signal(signal.SIGINT, note)
        threading.Thread(target=repeat, name="tfgpt-interrupts", daemon=True).start()
        yield
    finally:
        with ending:
            ended.set()
        noted.put(None)
        sys.unraisablehook = hook
        if is_ours:
            signal.signal(signal.SIGINT, handler)


def _is_unwinding(error: BaseException | None) -> bool:
    """Whether an interrupt is being dealt with: something cleans up on its way out."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _interrupt_main_thread() -> None:
    """Ctrl-C once more, by a real signal where there is one: it also ends a call that waits."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _explained(error: Exception) -> tuple[str, int]:
    """One line about an error, and the exit code that it deserves."""
    # Keras writes the arguments of the layer around a message; the error before has the message alone.
    while "Exception encountered when calling" in str(error) and error.__context__ is not None:
        error = error.__context__
    if isinstance(error, InputError):
        return str(error), 2
    is_path = isinstance(error, PATH_ERRORS) or getattr(error, "errno", None) in PATH_ERROR_NUMBERS
    if is_path and isinstance(error, OSError) and error.filename is not None:
        return f"found {os.fsdecode(error.filename)}: {error.strerror}; check the path", 2
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror}", 1
    if isinstance(error, MemoryError):
        return "out of memory: take a smaller model, batch or context", 1
    text = str(error) if isinstance(error, RuntimeError | FloatingPointError) else ""
    return f"{text or f'{type(error).__name__}: {error}'} (TFGPT_TRACEBACK=1 shows where)", 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each command's module states its own arguments."""
    parser = _Parser(
        prog="tfgpt",
        description="Train a GPT in Keras, ship it anywhere.",
        epilog="`tfgpt COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"tfgpt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        import_module(f"tfgpt.commands.{name}").add_arguments(command)
    return parser


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are wrong input like any other: one line."""

    def error(self, message: str):
        raise InputError(f"{message}; `{self.prog} --help` shows what is expected")


def _complain(message: str, code: int) -> int:
    # On one line, and without the escape codes that libraries colour their messages with.
    message = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", message).split())
    with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error is closed
        print(f"tfgpt: {message}", file=sys.stderr)
    return code


def _write_any_character() -> None:
    """Text that the terminal's encoding lacks is escaped: no reason to stop."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _give_up_standard_output() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it has no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
