"""What is asked of every artifact, and what the Keras model answers. Loads Keras only to ask it."""

from dataclasses import dataclass

import numpy as np

from tfgpt_export import signature


@dataclass(frozen=True)
class Case:
    """One way of asking: a batch and the pieces it is fed in.

    Args:
        name: for messages and reports.
        token_ids, mask: int64 `[batch, length]`, the mask 0 on padding.
        ends: where each piece ends; the first is the prefill, the last is `length`.
    """

    name: str
    token_ids: np.ndarray
    mask: np.ndarray
    ends: tuple[int, ...]

    @property
    def positions(self) -> np.ndarray:
        """int64 `[batch, length]`: the number of real tokens before each, 0 on leading padding."""
        return np.maximum(np.cumsum(self.mask, axis=1) - 1, 0)


@dataclass(frozen=True)
class Answer:
    """Keras's outputs on a case, by their names in the graph, in the order in which the model makes them."""

    case: Case
    tensors: dict[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        """The tensors, in the order in which the model makes them."""
        return list(self.tensors)

    def shape_difference(self, name: str, found: np.ndarray) -> str | None:
        """What is wrong with a tensor's shape; `None` when nothing is."""
        wanted = self.tensors[name]
        if found.shape == wanted.shape:
            return None
        return f"has shape {list(found.shape)}, Keras gives {list(wanted.shape)}"

    def difference(self, name: str, found: np.ndarray) -> float:
        """The largest difference, relative to the size of the tensor, or to 1."""
        found, wanted = (real_part(name, each, self.case.mask) for each in (found, self.tensors[name]))
        return float(np.max(np.abs(found - wanted)) / max(1.0, float(np.max(np.abs(wanted)))))


def make_cases(vocabulary_size: int, context_length: int, seed: int = 0) -> list[Case]:
    """Single and padded batches, at once, in pieces and token by token."""
    generator = np.random.default_rng(seed)
    length = max(2, min(24, context_length))
    token_ids = generator.integers(0, vocabulary_size, (3, length))
    padded = np.ones((3, length), np.int64)
    padded[1, : length // 4], padded[2, : length // 2] = 0, 0
    single = np.ones((1, length), np.int64)
    half = length // 2
    token_by_token = tuple(range(half, length + 1))
    return [
        Case("one prompt at once", token_ids[:1], single, (length,)),
        Case("one prompt in pieces", token_ids[:1], single, tuple(sorted({1, half, length}))),
        Case("left-padded batch, then token by token", token_ids, padded, token_by_token),
    ]


def answer(model, case: Case) -> Answer:
    """Runs a `CausalLM` on a whole case at once: layer by layer the cache, then the logits."""
    import keras

    cache = model.empty_cache(case.token_ids.shape[0])
    logits, present = model(case.token_ids, mask=case.mask, cache=cache, training=False)
    names = [tensor.name for tensor in signature.present_tensors(model.config)]
    pairs = zip(present.keys, present.values, strict=True)
    tensors = dict(zip(names, (part for pair in pairs for part in pair), strict=True))
    tensors["logits"] = logits
    return Answer(case, {name: keras.ops.convert_to_numpy(tensor) for name, tensor in tensors.items()})


def real_part(name: str, tensor: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Only what belongs to real tokens: what stands in padding is nobody's business."""
    real = mask.astype(bool)
    if name == "logits":
        return tensor[real]
    return np.moveaxis(tensor, 2, 1)[real]  # [batch, kv_heads, slots, head_dim] by slots
