"""Writing tensors as safetensors, in shards above a size. Loads no TensorFlow."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tfgpt.checkpoints.readers import INDEX_FILE, SINGLE_FILE
from tfgpt.errors import InputError
from tfgpt.files import write_json

# transformers writes this and refuses files that lack it.
_METADATA = {"format": "pt"}


def write_tensors(tensors: Iterable[tuple[str, np.ndarray]], directory: Path, max_shard_size: int) -> None:
    """Writes tensors into `directory`, starting a new shard whenever one would exceed `max_shard_size` bytes.

    One file is called `model.safetensors`; several come with `model.safetensors.index.json`. Memory holds one
    shard at a time.
    """
    if max_shard_size < 1:
        raise InputError(f"found max_shard_size={max_shard_size}, expected a number of bytes of at least 1")
    shards: list[list[str]] = []
    held: dict[str, np.ndarray] = {}
    total = size = 0

    def flush():
        save_file(held, directory / _draft(len(shards)), metadata=_METADATA)
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        if held and size + tensor.nbytes > max_shard_size:
            flush()
            size = 0
        held[name] = np.ascontiguousarray(tensor)
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    _rename(shards, total, directory)


def _draft(number: int) -> str:
    return f"shard-{number}.part"


def _rename(shards: list[list[str]], total: int, directory: Path) -> None:
    # The names carry the number of shards, which is known only at the end.
    if len(shards) == 1:
        (directory / _draft(0)).rename(directory / SINGLE_FILE)
        return
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (directory / _draft(number)).rename(directory / file)
        weight_map.update(dict.fromkeys(names, file))
    write_json(directory / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
