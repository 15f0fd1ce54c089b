"""Weights on their way from the checkpoint to an ONNX file, one tensor at a time.

    model.onnx         the graph and every small tensor
    model.onnx_data    the large tensors, one after the other, each at a multiple of a memory page

A model whose weights are small altogether is one file, which is what browsers and quick demos like best.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Below this sum everything stays in one file; above it, tensors from this size on go beside it.
SINGLE_FILE_BYTES = 64 * 2**20
EXTERNAL_BYTES = 1024
# Runtimes map the file into memory, which works by pages.
PAGE = 4096


def write_model(
    model: onnx.ModelProto, tensors: Iterable[tuple[str, np.ndarray]], path: Path, num_bytes: int
):
    """Turns graph inputs that are weights into initializers and writes the model.

    Args:
        model: the graph; a weight of `tensors` may be a graph input still. Changed in place.
        tensors: (name, array) of every initializer, read when its turn comes.
        path: of the .onnx file; the data file stands beside it as `<name>_data`.
        num_bytes: the sum of all tensors, which decides between one file and two.
    """
    external = num_bytes > SINGLE_FILE_BYTES
    data_path = path.with_name(path.name + "_data")
    names = set()
    with data_path.open("wb") if external else contextlib.nullcontext() as data:
        for name, tensor in tensors:
            names.add(name)
            if external and tensor.nbytes >= EXTERNAL_BYTES:
                model.graph.initializer.append(_write_external(name, tensor, data, data_path.name))
            else:
                model.graph.initializer.append(numpy_helper.from_array(tensor, name))
    kept = [each for each in model.graph.input if each.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    path.write_bytes(model.SerializeToString())


def _write_external(name: str, tensor: np.ndarray, data, location: str) -> onnx.TensorProto:
    data.seek(-data.tell() % PAGE, 1)
    offset = data.tell()
    data.write(memoryview(np.ascontiguousarray(tensor)).cast("B"))
    proto = onnx.TensorProto(name=name, dims=tensor.shape, data_location=onnx.TensorProto.EXTERNAL)
    proto.data_type = helper.np_dtype_to_tensor_dtype(tensor.dtype)
    for key, value in (("location", location), ("offset", offset), ("length", tensor.nbytes)):
        proto.external_data.add(key=key, value=str(value))
    return proto
