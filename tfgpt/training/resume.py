"""Checkpoints of a training job: whole or not there, checked when read, exact to the bit when resumed.

CHECKPOINTS/
  step-00000500/
    variables.safetensors   model (with the seeds of dropout), optimizer (moments, averages, loss scale)
    state.json              step, callbacks' state, fingerprint of the job, CRC-32 of variables.safetensors
  step-00001000/

A directory gets its name when everything in it is on disk. Together with a dataset that is a pure function of
the step this is all there is to restore: on one device the weights of a job that was killed and started again
are bitwise those of a job that ran through.
"""

import contextlib
import json
import os
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tfgpt.errors import InputError
from tfgpt.files import write_json
from tfgpt.replacing import replacing_directory

VERSION = 1
VARIABLES, STATE = "variables.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: the step to go on from, arrays by name, and state that is JSON."""

    step: int
    arrays: dict[str, np.ndarray]
    state: dict


class Checkpoints:
    """The checkpoints in one directory.

    Args:
        directory: made by the first `save`.
        keep_last: how many to keep; older ones are deleted after a newer one stands. At least 2 keeps one to
            fall back to when the newest is damaged.
        warn: called with one line when a damaged checkpoint is passed over.
    """

    def __init__(self, directory: str | os.PathLike, keep_last: int = 2, warn=print):
        if keep_last < 1:
            raise InputError(f"found keep_last={keep_last}, expected at least 1")
        self.directory = Path(directory)
        self.keep_last = keep_last
        self.warn = warn

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first; unfinished ones have other names and are not among them."""
        if not self.directory.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.directory.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, arrays: dict[str, np.ndarray], state: dict) -> Path:
        """Writes one checkpoint and deletes those that are too old."""
        directory = self.path(step)
        with replacing_directory(directory) as temporary:
            file = temporary / VARIABLES
            save_file({name: _as_bits(array) for name, array in arrays.items()}, file)
            _flush(file)
            content = {"version": VERSION, "step": step, "crc32": _crc32(file), "state": state}
            content["bfloat16"] = [n for n, a in arrays.items() if a.dtype == ml_dtypes.bfloat16]
            write_json(temporary / STATE, content)
            _flush(temporary / STATE)
        for old in self.steps()[: -self.keep_last]:
            shutil.rmtree(self.path(old), ignore_errors=True)
        return directory

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None. A damaged one costs a warning, not the job."""
        for step in reversed(self.steps()):
            try:
                return self.read(step)
            except InputError as error:
                self.warn(f"warning: {error}; trying the one before")
        return None

    def read(self, step: int) -> Checkpoint:
        """Reads one checkpoint; InputError if it is damaged."""
        directory = self.path(step)
        try:
            content = json.loads((directory / STATE).read_text(encoding="utf-8"))
            version, crc = content["version"], content["crc32"]
            if version == VERSION and _crc32(directory / VARIABLES) != crc:
                raise InputError(f"found checkpoint {directory} damaged (its checksum differs)")
            arrays = load_file(directory / VARIABLES)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"found checkpoint {directory} damaged ({error})") from error
        if version != VERSION:
            raise InputError(f"found checkpoint {directory} of version {version}, expected {VERSION}")
        for name in content["bfloat16"]:
            arrays[name] = arrays[name].view(ml_dtypes.bfloat16)
        return Checkpoint(content["step"], arrays, content["state"])

    def path(self, step: int) -> Path:
        """The directory of a step's checkpoint."""
        return self.directory / f"step-{step:08d}"


def capture(model) -> dict[str, np.ndarray]:
    """Every variable that training changes, as arrays; model and optimizer must be built."""
    return {name: np.array(keras.ops.convert_to_numpy(v)) for name, v in _variables(model).items()}


def restore(model, arrays: dict[str, np.ndarray]) -> None:
    """Puts captured arrays back into a model with the same variables.

    Raises:
        InputError: another model or another optimizer; nothing is changed then.
    """
    variables = _variables(model)
    missing, unknown = sorted(variables.keys() - arrays.keys()), sorted(arrays.keys() - variables.keys())
    if missing or unknown:
        raise InputError(
            f"found a checkpoint that does not fit the model: missing {missing[:1] or 'nothing'}, unknown "
            f"{unknown[:1] or 'nothing'}; train with the settings it was made with, or into another output"
        )
    for name, variable in variables.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise InputError(
                f"found {name} of shape {arrays[name].shape} in the checkpoint, expected "
                f"{tuple(variable.shape)}; train with the settings it was made with, or into another output"
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def build_for_training(model) -> None:
    """Makes the optimizer's variables now, in the model's strategy, so that they can be restored."""
    if not model.built:
        raise InputError("found a model without variables, expected it built; call it once on a batch")
    if not model.optimizer.built:
        strategy = getattr(model, "distribute_strategy", None)  # TensorFlow's alone
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            model.optimizer.build(model.trainable_variables)


def _variables(model) -> dict[str, keras.Variable]:
    # The first part of a path is the model's own name, which counts the models made in this process; so do
    # the names of optimizer variables, which are therefore numbered.
    named = {}
    for index, variable in enumerate(model.variables):
        if not any(variable is metric for metric in model.metrics_variables):
            named[f"model/{index:05d}/{variable.path.partition('/')[2] or variable.name}"] = variable
    for index, variable in enumerate(model.optimizer.variables):
        named[f"optimizer/{index:05d}"] = variable
    return named


def _as_bits(array):
    array = np.asarray(array, order="C")  # ascontiguousarray would make scalars vectors
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def _crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _flush(path: Path) -> None:
    """Forces a file onto the disk: a power cut must not leave a directory with its final name and no data."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
