"""The common ONNX graph with a key-value cache, loaded and checked against the names that all share.

    IN  input_ids, position_ids        int64    [batch, length]
    IN  attention_mask                 int64    [batch, past + length]
    IN  past_key_values.{i}.key|value  float    [batch, kv_heads, past, head_dim]
    OUT logits                         float    [batch, length, vocabulary]
    OUT present.{i}.key|value          float    [batch, kv_heads, past + length, head_dim]

With the metadata entry `tfgpt.shared_cache` = "1" attention is GroupQueryAttention, which takes its lengths
from the mask: then past and present may be one buffer of any capacity, written in place.
"""

from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from tfgpt.errors import InputError
from tfgpt.serving.runtime import DTYPES, open_session

SHARED_CACHE = "tfgpt.shared_cache"
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
        num_threads: see `open_session`.

    Raises:
        InputError: no graph, or not one with the inputs and outputs above; an impossible number of threads.
    """
    return _described(open_session(path, num_threads), path)


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
    if not all(isinstance(size, int) for size in static) or {first.type, logits.type} - set(DTYPES):
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
        dtype=DTYPES[first.type],
        logits_dtype=DTYPES[logits.type],
        has_shared_cache=metadata.get(SHARED_CACHE) == "1",
    )
