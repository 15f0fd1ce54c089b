"""Reading tensors from safetensors files, one at a time. Loads no TensorFlow."""

import json
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors then reads
import numpy as np
from safetensors import SafetensorError, safe_open

from tfgpt.errors import InputError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


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
        self._file_of: dict[str, str] = {}
        for name in _weight_files(self.directory):
            with self._open(name) as file:
                self._file_of.update(dict.fromkeys(file.keys(), name))

    def _open(self, name: str):
        path = self.directory / name
        try:
            return safe_open(path, framework="np")
        except FileNotFoundError:
            raise InputError(f"{path} is missing: the index lists it; download the directory again") from None
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file ({reason}): "
                "download it again"
            ) from None

    def names(self) -> list[str]:
        """All tensor names."""
        return sorted(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header."""
        with self._open(self._file_of[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The dtype of a tensor as safetensors spells it (`F32`, `BF16`, ...), from the header."""
        with self._open(self._file_of[name]) as file:
            return file.get_slice(name).get_dtype()

    def read(self, name: str) -> np.ndarray:
        """One tensor, copied into memory."""
        # The file is mapped anew for each tensor: pages of a mapping that stays would count as memory held.
        with self._open(self._file_of[name]) as file:
            try:
                return file.get_tensor(name)
            except (SafetensorError, TypeError) as error:
                raise InputError(
                    f"{self.directory}: tensor {name!r} of dtype {self.dtype(name)} cannot be read ({error})"
                ) from None

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        """All tensors, one in memory at a time."""
        for name in self.names():
            yield name, self.read(name)


def _weight_files(directory: Path) -> list[str]:
    if (directory / SINGLE_FILE).exists():
        return [SINGLE_FILE]
    index = directory / INDEX_FILE
    if index.exists():
        return _shards(index)
    pickled = sorted(path.name for path in directory.glob("*.bin"))
    if pickled:
        raise InputError(
            f"{directory} has only pickled weights ({pickled[0]}), which can run code and are not read: save "
            "them as safetensors with transformers' save_pretrained first"
        )
    raise InputError(f"{directory} has no {SINGLE_FILE} and no {INDEX_FILE}: expected a model directory")


def _shards(index: Path) -> list[str]:
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, OSError, RecursionError) as error:
        raise InputError(f"{index} is not an index of shards ({error!r}): download it again") from None
    for name in files:
        # An index is data from elsewhere: it may only name its neighbours.
        plain = isinstance(name, str) and Path(name).name == name and name.isprintable()
        if not plain or not name.endswith(".safetensors"):
            raise InputError(f"{index} names {name!r}: expected safetensors files of its own directory only")
    return files
