"""Writing tensors as safetensors, in shards above a size, one tensor in memory at a time. No TensorFlow.

The safetensors library writes a file from tensors that are all in memory. The format is simple enough to be
written as a stream: 8 bytes of length, a JSON header with every tensor's place, then the bytes of the tensors
(https://github.com/huggingface/safetensors#format). What is written here is read back with the library in the
tests.
"""

import json
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path

import numpy as np

from tfgpt.checkpoints.arrays import ALIGNMENT, laid_out
from tfgpt.checkpoints.readers import DTYPES, INDEX_FILE, SINGLE_FILE
from tfgpt.checkpoints.translate import PublishedTensors, TensorSpec
from tfgpt.errors import InputError
from tfgpt.files import write_json

# transformers writes this and refuses files that lack it.
_METADATA = {"format": "pt"}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def check_shard_size(max_shard_size: int) -> None:
    """`InputError` for a size that no shard can keep."""
    is_number = isinstance(max_shard_size, Integral) and not isinstance(max_shard_size, bool)
    if not is_number or max_shard_size < 1:
        raise InputError(f"found max_shard_size={max_shard_size!r}, expected a number of bytes of at least 1")


def write_tensors(published: list[PublishedTensors], directory: Path, max_shard_size: int) -> None:
    """Writes tensors into `directory`, starting a new shard whenever one would exceed `max_shard_size` bytes.

    One file is called `model.safetensors`; several come with `model.safetensors.index.json`.
    """
    check_shard_size(max_shard_size)
    shards = _shards([spec for each in published for spec in each.specs], max_shard_size)
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    tensors = (tensor for each in published for tensor in each.read())
    for name, specs in zip(names, shards, strict=True):
        _write_file(directory / name, specs, tensors)
    if len(shards) > 1:
        total = sum(spec.num_bytes for specs in shards for spec in specs)
        weight_map = {spec.name: name for name, specs in zip(names, shards, strict=True) for spec in specs}
        write_json(directory / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(specs: list[TensorSpec], max_shard_size: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.num_bytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.num_bytes
    return shards


def _write_file(path: Path, specs: list[TensorSpec], tensors: Iterator[np.ndarray]) -> None:
    header: dict = {"__metadata__": _METADATA}
    end = 0
    for spec in specs:
        start, end = end, end + spec.num_bytes
        place = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
        header[spec.name] = place
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The tensors begin where a framework can take over the memory that the file is mapped to.
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb", buffering=0) as file:
        _write_all(file, len(text).to_bytes(8, "little") + text)
        for name, shape, dtype in specs:
            tensor = next(tensors)
            if (tensor.shape, tensor.dtype.name) != (shape, dtype):
                raise RuntimeError(
                    f"{name} is {tensor.dtype} {tensor.shape}, but {dtype} {shape} was announced"
                )
            _write_all(file, laid_out(tensor, dtype).reshape(-1).view(np.uint8))
            del tensor


def _write_all(file, content) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]  # at most 2 GB at a time on Linux
