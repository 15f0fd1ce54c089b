"""Reading tensors from safetensors files, one at a time. Loads no TensorFlow.

The safetensors library reads and checks the headers. The bytes of a tensor are the file's own, mapped into
memory and copied on write: a framework takes them over as they are where they are aligned and need no other
layout, and the file stays as it is whatever is written to them. As everywhere where files are mapped, a file
must be replaced, not overwritten, while a model of it is alive; `save_pretrained` and the hub replace.
"""

import math
import mmap
import os
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from tfgpt.errors import InputError, one_line
from tfgpt.files import read_json
from tfgpt.paths import check_plain_file

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# safetensors' names of what NumPy, with ml_dtypes, can hold.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


class Reader(Protocol):
    """What a weight table is run over: named tensors of any format, read when asked for."""

    directory: Path

    def names(self) -> list[str]:
        """All tensor names, sorted."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""

    def dtype(self, name: str) -> str:
        """The dtype of a tensor by NumPy's name, without reading it."""

    def read(self, name: str) -> np.ndarray:
        """One tensor, which may be written to."""


class _Stored(NamedTuple):
    """Where a tensor lies."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int


class TensorReader:
    """The tensors of a model directory: one safetensors file, or shards with an index.

    Nothing but headers is read until `read` asks for a tensor.

    Args:
        directory: holds `model.safetensors`, or `model.safetensors.index.json` and its shards.

    Raises:
        InputError: a file is missing, truncated or corrupt, or the index contradicts the shards.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        weight_map = _weight_map(self.directory)
        files = [SINGLE_FILE] if weight_map is None else sorted(set(weight_map.values()))
        self._stored: dict[str, _Stored] = {}
        for file in files:
            for name, stored in _header(self.directory / file):
                if weight_map is not None and weight_map.get(name) != file:
                    raise InputError(_unlisted(self.directory, name, file, weight_map))
                self._stored[name] = stored
        for name, file in (weight_map or {}).items():
            if name not in self._stored:
                raise InputError(
                    f"{self.directory / INDEX_FILE} says that tensor {name!r} is in {file}, which does not "
                    "have it: the index and the shards are not of one model; download the directory again"
                )

    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header."""
        return self._stored[name].shape

    def dtype(self, name: str) -> str:
        """The dtype of a tensor by NumPy's name (`float32`, `bfloat16`, ...), from the header."""
        return self._stored[name].dtype

    def read(self, name: str) -> np.ndarray:
        """One tensor: the file's bytes, mapped and copied on write."""
        stored = self._stored[name]
        dtype = np.dtype(stored.dtype)
        num_elements = math.prod(stored.shape)
        if not num_elements:
            return np.empty(stored.shape, dtype)
        path = self.directory / stored.file
        before = stored.start % mmap.ALLOCATIONGRANULARITY  # a mapping begins at a page
        length = before + num_elements * dtype.itemsize
        try:
            with path.open("rb") as file:
                pages = mmap.mmap(
                    file.fileno(), length, access=mmap.ACCESS_COPY, offset=stored.start - before
                )
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} was changed while it was read ({one_line(error)}): download it again"
            ) from None
        return np.frombuffer(pages, dtype, num_elements, offset=before).reshape(stored.shape)


def _header(path: Path) -> list[tuple[str, _Stored]]:
    """(name, place) of every tensor of a file whose header safetensors has found sound.

    Sound is: no holes, no overlap, and the last tensor ends where the file does. So each begins where the one
    before it ends.
    """
    check_plain_file(path, "safetensors")
    try:
        with safe_open(path, framework="np") as file:
            slices = [(name, file.get_slice(name)) for name in file.offset_keys()]
            found = [(name, each.get_dtype(), tuple(each.get_shape())) for name, each in slices]
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
    except FileNotFoundError:  # safetensors says so of files that may not be read, too
        if path.exists():
            raise InputError(f"{path} cannot be opened: expected a file that may be read") from None
        raise InputError(f"{path} is missing: the index lists it; download the directory again") from None
    except (SafetensorError, OSError) as error:
        size = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
        raise InputError(
            f"{path}{size} is not a whole safetensors file ({one_line(error)}): download it again"
        ) from None
    places = []
    for name, dtype, shape in found:
        if dtype not in DTYPES:
            raise InputError(
                f"{path}: tensor {name!r} has dtype {dtype}, expected one of {', '.join(DTYPES)}; save the "
                "model unquantized"
            )
        places.append((name, _Stored(path.name, DTYPES[dtype], shape, start)))
        start += math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    return places


def _weight_map(directory: Path) -> dict[str, str] | None:
    """Tensor name -> shard of an index; `None` where one file has everything."""
    if os.path.lexists(directory / SINGLE_FILE):
        return None
    index = directory / INDEX_FILE
    if os.path.lexists(index):
        return _read_index(index)
    pickled = sorted(path.name for path in directory.glob("*.bin"))
    if pickled:
        raise InputError(
            f"{directory} has only pickled weights ({pickled[0]}), which can run code and are not read: save "
            "them as safetensors with transformers' save_pretrained first"
        )
    raise InputError(f"{directory} has no {SINGLE_FILE} and no {INDEX_FILE}: expected a model directory")


def _read_index(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{index} is not an index of shards (it has no weight_map): download it again")
    for name in weight_map.values():
        # An index is data from elsewhere: it may only name its neighbours. A neighbour may be a symbolic
        # link, as in the hub's cache: whoever made the directory put it there.
        plain = isinstance(name, str) and Path(name).name == name and name.isprintable()
        if not plain or not name.endswith(".safetensors"):
            raise InputError(f"{index} names {name!r}: expected safetensors files of its own directory only")
    return weight_map


def _unlisted(directory: Path, name: str, file: str, weight_map: dict[str, str]) -> str:
    where = f"says it is in {weight_map[name]}" if name in weight_map else "does not list it"
    return (
        f"{directory}: {file} has the tensor {name!r}, but {INDEX_FILE} {where}: the index and the shards "
        "are not of one model; download the directory again"
    )
