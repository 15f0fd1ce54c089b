"""The command line: finds the command, and turns errors into one line and an exit code.

Exit codes: 0 success; 2 wrong use (one line: what was found, what was expected, what to do); 1 a failure
while running; 130 interrupted.
"""

import argparse
import os
import sys
from importlib import import_module

from tfgpt._version import __version__
from tfgpt.errors import InputError

COMMANDS = {
    "quickstart": "the whole job on this machine: corpus, training, export, verification, generation",
    "train": "train a model from a recipe; an interrupted run goes on where it was",
    "evaluate": "loss, perplexity and bits per byte of a model on a text",
    "export": "model directory -> ONNX and SavedModel, verified against Keras",
    "generate": "continue a prompt, with a model directory or an export",
    "convert": "a published checkpoint -> a model directory",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    # TensorFlow greets with its build flags; what it really has to say comes as an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        return import_module(f"tfgpt.commands.{arguments.command}").run(arguments) or 0
    except InputError as error:
        return _complain(error, 2)
    except (
        FileNotFoundError,
        FileExistsError,
        NotADirectoryError,
        IsADirectoryError,
        PermissionError,
    ) as error:
        return _complain(f"{error.filename or ''}: {error.strerror}: check the path".lstrip(": "), 2)
    except KeyboardInterrupt:
        return _complain("interrupted; the same command goes on from here", 130)
    except BrokenPipeError:
        # The reader has gone (`tfgpt generate ... | head`); Python must not complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RuntimeError, FloatingPointError) as error:
        if os.environ.get("TFGPT_TRACEBACK"):
            raise
        return _complain(f"{error} (TFGPT_TRACEBACK=1 shows where)", 1)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each command's module states its own arguments."""
    parser = argparse.ArgumentParser(
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


def _complain(error, code: int) -> int:
    message = " ".join(str(error).split())
    print(f"tfgpt: {message}", file=sys.stderr)
    return code
