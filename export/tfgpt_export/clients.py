"""Other runtimes asked for greedy tokens: each runs a small program of its own in a process of its own.

A program stands in `programs/`, knows its runtime and nothing of tfgpt, and is run in the environment where
the runtime is:

    PROGRAM EXPORT_DIR REQUEST.json [FOLDER]
    request   {"prompts": [[id, ...], ...], "new_tokens": n, "precision": "fp32", "file": "model.onnx"}
    prints    as its last line {"token_ids": [[id, ...], ...]}: the new tokens of each prompt

A runtime may end a row at the end of the text; Keras's tokens after it are not asked for.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfgpt.errors import InputError, nearest
from tfgpt.files import read_json, write_json
from tfgpt.generation.options import is_integer
from tfgpt.paths import user_path
from tfgpt.serving.export_directory import FILE_OF_PRECISION

FOLDER = Path(__file__).resolve().parent / "programs"
NODE = "@huggingface/transformers"
# client -> its program, and the module (or npm package) that must be importable.
CLIENTS = {
    "onnxruntime": ("onnxruntime_loop.py", "onnxruntime"),
    "genai": ("genai.py", "onnxruntime_genai"),
    "optimum": ("optimum_onnx.py", "optimum.onnxruntime"),
    "tensorflow": ("tensorflow_saved_model.py", "tensorflow"),
    "node": ("transformers_js.mjs", NODE),
}
ALL = "all"
LONGEST_RUN = 1800  # seconds


class ClientError(RuntimeError):
    """A client failed, or answered something else than tokens."""


@dataclass(frozen=True)
class Program:
    """A client that can be run: its name and its command line up to the arguments."""

    name: str
    command: tuple[str, ...]
    folder: str | None = None

    def precision(self, export_dir: Path, precisions: list[str]) -> str:
        """Which artifact the client is asked for: the first, or the one that it finds by itself."""
        if self.name == "tensorflow":
            return "saved_model"
        if self.name == "genai":
            file = Path(read_json(export_dir / "genai_config.json")["model"]["decoder"]["filename"]).name
            return next(name for name, other in FILE_OF_PRECISION.items() if other == file)
        return precisions[0]

    def greedy_tokens(self, export_dir: Path, prompts, num_new: int, precision: str) -> list[list[int]]:
        """The new tokens of each prompt.

        Raises:
            ClientError: the program cannot be started, fails, takes longer than half an hour, or prints
                something else.
        """
        with tempfile.TemporaryDirectory() as folder:
            request = Path(folder) / "request.json"
            file = FILE_OF_PRECISION.get(precision)
            asked = {"prompts": prompts, "new_tokens": num_new, "precision": precision, "file": file}
            write_json(request, asked, indent=None)
            command = [*self.command, str(Path(export_dir).resolve()), str(request)]
            command += [self.folder] if self.folder else []
            return self._answer(command)

    def _answer(self, command: list[str]) -> list[list[int]]:
        # The environment of the present process names the present packages.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=LONGEST_RUN,
                env=environment,
            )
        except OSError as error:
            raise ClientError(f"{self.name} cannot be started: {command[0]}: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise ClientError(f"{self.name} gave no tokens within {LONGEST_RUN} seconds") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["nothing on standard error"])[-1]
            raise ClientError(f"{self.name} failed with exit code {done.returncode}: {last[:300]}")
        try:
            rows = json.loads(done.stdout.strip().splitlines()[-1])["token_ids"]
            is_table = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
            if is_table and all(is_integer(token) and 0 <= token < 2**31 for row in rows for token in row):
                return rows
        except (ValueError, IndexError, KeyError, TypeError, RecursionError):
            pass
        raise ClientError(f"{self.name} printed no tokens: {done.stdout[-300:]!r}")


@dataclass(frozen=True)
class Found:
    """Which clients can be asked, and a line for each that cannot."""

    programs: dict[str, Program]
    missing: list[str]


def find(names: Sequence[str], places: dict[str, str]) -> Found:
    """Looks for clients.

    Args:
        names: of `CLIENTS`; "all" stands for every one that is found.
        places: client -> a Python interpreter, or for "node" a folder with node_modules. Without one the
            present interpreter must have the module, or the current folder the npm package.

    Raises:
        InputError: an unknown name, a place that does not exist, or a client that was named is missing.
    """
    for name in (*names, *places):
        if name not in CLIENTS and not (name == ALL and name in names):
            raise InputError(f"there is no client {name!r}{nearest(name, [*CLIENTS, ALL])}")
    for name in places:
        if name not in names and ALL not in names:
            raise InputError(f"found a place of {name}, which is not asked for: add --client {name}")
    programs, missing = {}, []
    for name in CLIENTS:
        if name not in names and ALL not in names:
            continue
        program = _program(name, places.get(name))
        if program is not None:
            programs[name] = program
            continue
        line = _how_to(name, places.get(name))
        if name in names:
            raise InputError(line)
        missing.append(line)
    return Found(programs, missing)


def completed(rows: list[list[int]], reference: np.ndarray, ends: set[int]) -> np.ndarray:
    """int32 `[prompts, new]`: rows that ended with the text go on as Keras's; others too short become -1."""
    found = np.full(reference.shape, -1, np.int32)
    for number, row in enumerate(rows[: len(found)]):
        row = list(row)[: found.shape[1]]
        found[number, : len(row)] = row
        if row and row[-1] in ends:
            found[number, len(row) :] = reference[number, len(row) :]
    return found


def _program(name: str, place: str | None) -> Program | None:
    file, module = CLIENTS[name]
    if name == "node":
        folder, node = Path(place or os.curdir).resolve(), shutil.which("node")
        is_there = node and (folder / "node_modules" / NODE).is_dir()
        return Program(name, (node, str(FOLDER / file)), str(folder)) if is_there else None
    if place is None or Path(place) == Path(sys.executable):
        return Program(name, (sys.executable, str(FOLDER / file))) if _has_module(module) else None
    interpreter = shutil.which(str(user_path(place)))
    if interpreter is None:
        raise InputError(f"found no program {place} for the client {name}, expected its Python interpreter")
    look = f"import importlib.util as u; raise SystemExit(u.find_spec({module.split('.')[0]!r}) is None)"
    try:
        is_there = subprocess.run([interpreter, "-c", look], capture_output=True).returncode == 0
    except OSError as error:
        raise InputError(
            f"found {place}, which cannot be started ({error.strerror}), for the client {name}, expected its "
            "Python interpreter"
        ) from None
    return Program(name, (interpreter, str(FOLDER / file))) if is_there else None


def _has_module(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _how_to(name: str, place: str | None) -> str:
    module = CLIENTS[name][1]
    where = place or ("this folder" if name == "node" else "this environment")
    what = "FOLDER_WITH_NODE_MODULES" if name == "node" else "PATH_TO_PYTHON"
    return f"client {name}: found no {module} in {where}; say where it is with --client-at {name}={what}"
