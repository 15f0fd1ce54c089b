"""An ONNX graph with a key-value cache, loaded and checked against the names and shapes that all share.

    IN  input_ids, position_ids        int64    [batch, length]
    IN  attention_mask                 int64    [batch, past + length]
    IN  past_key_values.{i}.key|value  float    [batch, kv_heads, past, head_dim]
    OUT logits                         float    [batch, length, vocabulary]
    OUT present.{i}.key|value          float    [batch, kv_heads, past + length, head_dim]

With the metadata entry `tfgpt.shared_cache` = "1" attention is GroupQueryAttention, which takes its lengths
from the mask: then past and present may be one buffer of any capacity, written in place.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from tfgpt.errors import InputError, one_line

SHARED_CACHE = "tfgpt.shared_cache"
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
# More than that help no graph, and each takes memory: a typing error must not take the machine down.
_MOST_THREADS = 256
_TOKEN_INPUTS = ("input_ids", "attention_mask", "position_ids")


@dataclass(frozen=True)
class CacheGraph:
    """A loaded graph and what it says about itself; `cache_names`: (past, present) in the graph's order."""

    session: onnxruntime.InferenceSession
    cache_names: tuple[tuple[str, str], ...]
    num_key_value_heads: int
    head_dim: int
    vocabulary_size: int
    dtype: type
    logits_dtype: type
    has_shared_cache: bool


def load_graph(path: Path, num_threads: int | None = None) -> CacheGraph:
    """Loads the graph for the CPU.

    Args:
        path: the .onnx file; its external data, if it has any, is mapped into memory, not read.
        num_threads: threads for one operator; None is one for each core that the process may use. Threads
            spin while they wait for each other, which is fastest on a machine of one's own; where other
            processes want the cores too, ask for fewer.

    Raises:
        InputError: no graph, or not one with the inputs and outputs above; an impossible number of threads.
    """
    most = max(_MOST_THREADS, _num_cores())
    if num_threads is not None and not 1 <= num_threads <= most:
        raise InputError(
            f"found {num_threads} threads, expected 1 to {most}; leave it out to take one for each core"
        )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = num_threads or _num_cores()
    options.inter_op_num_threads = 1
    # Each step has a mask of another shape: a memory plan for each would be made and never used again.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # errors come as exceptions
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise InputError(
            f"found a graph that onnxruntime cannot load in {path} ({one_line(error)}), expected ONNX; "
            "export it again"
        ) from error
    return _described(session, path)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _described(session: onnxruntime.InferenceSession, path: Path) -> CacheGraph:
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = {item.name: item for item in session.get_outputs()}
    past = [name for name in inputs if name.startswith("past_key_values.")]
    pairs = tuple((name, name.replace("past_key_values.", "present.", 1)) for name in past)
    needed = {*_TOKEN_INPUTS, "past_key_values.0.key"}
    missing = sorted(needed - set(inputs)) + [
        name for name in ("logits", *(present for _, present in pairs)) if name not in outputs
    ]
    extra = sorted(set(inputs) - {*_TOKEN_INPUTS, *past})
    if missing or extra:
        raise InputError(
            f"found a graph with inputs {', '.join(inputs)} in {path}, expected token inputs and a cache "
            f"(missing: {', '.join(missing) or 'none'}; unknown: {', '.join(extra) or 'none'}); export again"
        )
    first, logits = inputs[past[0]], outputs["logits"]
    _, num_heads, _, head_dim = first.shape
    static = (num_heads, head_dim, logits.shape[-1])
    if not all(isinstance(size, int) for size in static) or {first.type, logits.type} - set(_DTYPES):
        raise InputError(
            f"found {first.name} {first.type} {first.shape} and logits {logits.type} {logits.shape} in {path}"
            ", expected floats with a fixed number of heads, head size and vocabulary; export it again"
        )
    metadata = session.get_modelmeta().custom_metadata_map
    return CacheGraph(
        session=session,
        cache_names=pairs,
        num_key_value_heads=num_heads,
        head_dim=head_dim,
        vocabulary_size=logits.shape[-1],
        dtype=_DTYPES[first.type],
        logits_dtype=_DTYPES[logits.type],
        has_shared_cache=metadata.get(SHARED_CACHE) == "1",
    )
