"""onnxruntime as this package uses it: sessions for the CPU, and memory that is bound instead of copied."""

import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from tfgpt.errors import InputError, one_line
from tfgpt.generation.options import is_integer

# What onnxruntime raises: classes of its own without a base class, and RuntimeError where memory is bound.
RUNTIME_ERRORS = (
    RuntimeError,
    *(
        each
        for each in vars(onnxruntime_pybind11_state).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ),
)
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
# More than that help no graph, and each takes memory: a typing error must not take the machine down.
_MOST_THREADS = 256


def open_session(
    path: Path, num_threads: int | None = None, in_turns: bool = False
) -> onnxruntime.InferenceSession:
    """Loads a graph for the CPU.

    Args:
        path: the .onnx file; its external data, if it has any, is mapped into memory, not read.
        num_threads: threads for one operator; None is one for each core that the process may use. Threads
            spin while they wait for each other, which is fastest on a machine of one's own; where other
            processes want the cores too, ask for fewer.
        in_turns: another session computes between this one's runs. Threads then stop spinning as a run ends,
            so that they do not take the cores from the other one's; for one session alone it would make
            tiny graphs (under a millisecond) slower.

    Raises:
        InputError: no graph that onnxruntime can load; an impossible number of threads.
    """
    most = max(_MOST_THREADS, _num_cores())
    if num_threads is not None and not (is_integer(num_threads) and 1 <= num_threads <= most):
        raise InputError(
            f"found {num_threads!r} threads, expected 1 to {most}; leave it out to take one for each core"
        )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = num_threads or _num_cores()
    options.inter_op_num_threads = 1
    if in_turns:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    # Shapes change from step to step: a memory plan for each would be made and never used again.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # errors come as exceptions
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever a damaged file makes of the message, too
        raise InputError(
            f"found a graph that onnxruntime cannot load in {path} ({one_line(error)}), expected ONNX; "
            "export it again"
        ) from error


def give_back_memory() -> None:
    """What loading has freed goes back to the system: the C library of most Linux systems would keep it."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def operator_has_input(operator: str, name: str) -> bool:
    """Whether this onnxruntime's contrib operator takes an input of that name: newer ones take more."""
    return any(
        schema.name == operator and any(each.name == name for each in schema.inputs)
        for schema in onnxruntime_pybind11_state.get_all_operator_schema()
    )


def bind_input(binding, name: str, array: np.ndarray) -> None:
    """Binds the array's memory, which the caller must keep; the array is contiguous."""
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def bind_output(binding, name: str, array: np.ndarray) -> None:
    """As `bind_input`, for a result that is written into the array."""
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
