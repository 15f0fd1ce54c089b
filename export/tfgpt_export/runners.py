"""One way to run each kind of artifact, on a case and on text.

    run(case)      -> logits and caches by name, float32, fed in the pieces that the case states
    predict(ids)   -> logits of whole rows

`OnnxRunner` loads onnxruntime alone; `SavedModelRunner` loads TensorFlow.
"""

from pathlib import Path

import numpy as np

from tfgpt.generation.loop import Generation
from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.row import make_rows
from tfgpt.serving.engine import Engine
from tfgpt.serving.engine_graph import EngineCache, Feed, load_engine_graph
from tfgpt.serving.export_directory import engine_of, prompts_of
from tfgpt.serving.graph import load_graph
from tfgpt_export.reference import Case

PAST, PRESENT = "past_key_values.", "present."


def whole_case(token_ids: np.ndarray) -> Case:
    """Rows without padding, at once."""
    return Case("text", token_ids, np.ones_like(token_ids), (token_ids.shape[1],))


class OnnxRunner:
    """A graph of the common contract, in any precision."""

    def __init__(self, session):
        """`session`: an onnxruntime.InferenceSession."""
        self._session = session
        self._pasts = {each.name: each for each in session.get_inputs() if each.name.startswith(PAST)}
        self._outputs = ["logits", *(name.replace(PAST, PRESENT, 1) for name in self._pasts)]

    @classmethod
    def open(cls, path: Path) -> "OnnxRunner":
        """Raises InputError when onnxruntime cannot load it, or its inputs are others."""
        return cls(load_graph(Path(path)).session)

    def run(self, case: Case) -> dict[str, np.ndarray]:
        """Feeds a case piece by piece, outputs becoming inputs by their place in the contract."""
        pasts = {name: self._empty(each, len(case.token_ids)) for name, each in self._pasts.items()}
        logits, start, found = [], 0, {}
        for end in case.ends:
            feeds = {
                "input_ids": case.token_ids[:, start:end],
                "attention_mask": case.mask[:, :end],
                "position_ids": case.positions[:, start:end],
            }
            outputs = self._session.run(None, feeds | pasts)
            found = dict(zip(self._outputs, outputs, strict=True))
            pasts = dict(zip(pasts, outputs[1:], strict=True))
            logits.append(found["logits"])
            start = end
        found["logits"] = np.concatenate(logits, axis=1)
        return {name: tensor.astype(np.float32, copy=False) for name, tensor in found.items()}

    def predict(self, token_ids: np.ndarray) -> np.ndarray:
        """int64 `[rows, length]` -> float32 `[rows, length, vocabulary]`."""
        return self.run(whole_case(token_ids))["logits"]

    @staticmethod
    def _empty(past, num_rows: int) -> np.ndarray:
        kind = np.float16 if past.type == "tensor(float16)" else np.float32
        return np.zeros((num_rows, past.shape[1], 0, past.shape[3]), kind)


class PromptRunner:
    """Rows as a session serves long prompts: three quarters by the graph for them, in two chunks, and what
    comes after by the engine's own graph, over the cache that the other has filled."""

    def __init__(self, export_dir: Path, precision: str):
        """Raises InputError when onnxruntime cannot load either, or they are not of one model."""
        self._engine = load_engine_graph(engine_of(export_dir, precision))
        self._prompts = load_engine_graph(prompts_of(export_dir, precision))
        self._prompts.check_same_cache(self._engine)

    def predict(self, token_ids: np.ndarray) -> np.ndarray:
        """int64 `[rows, length]` -> float32 `[rows, length, vocabulary]`."""
        num_rows, length = token_ids.shape
        cache = EngineCache(self._engine)
        cache.reserve(num_rows, length)
        pieces, start = [], 0
        for graph, end in (
            (self._prompts, length * 3 // 8),
            (self._prompts, length * 3 // 4),
            (self._engine, length),
        ):
            if count := end - start:
                chunk = token_ids[:, start:end].tolist()
                feeds = [Feed(row, start, ids, count) for row, ids in enumerate(chunk)]
                logits = cache.run(feeds, graph)  # valid until the next run
                pieces.append(logits.astype(np.float32).reshape(num_rows, count, -1))
            start = end
        return np.concatenate(pieces, axis=1)


class EngineRunner:
    """One of the engine's graphs, for every token of rows that run side by side."""

    def __init__(self, path: Path, context_length: int):
        """Raises InputError when onnxruntime cannot load it."""
        self._engine = Engine(load_engine_graph(path), context_length)

    def generate(self, prompts: list[list[int]], options: GenerationOptions) -> list[Generation]:
        """What `Session.generate` returns."""
        engine = self._engine
        rows = make_rows(prompts, options, None, engine.vocabulary_size, engine.context_length)
        requests = [engine.submit(row) for row in rows]
        while not engine.idle:
            engine.step()
        for request in requests:
            if request.failure is not None:
                raise request.failure
        return [row.generation() for row in rows]


class SavedModelRunner:
    """The signatures `serving_default` and `cached_step` of a SavedModel."""

    def __init__(self, path: Path, config):
        import tensorflow as tf

        self.config = config
        self.model = tf.saved_model.load(str(path))

    def run(self, case: Case) -> dict[str, np.ndarray]:
        """The prefill and the pieces through `cached_step`."""
        keys = values = self._empty(case.token_ids.shape[0])
        logits, start = [], 0
        for end in case.ends:
            found = self._step(case.token_ids[:, start:end], case.mask[:, :end], keys, values)
            keys, values = found["present_keys"], found["present_values"]
            logits.append(found["logits"].numpy())
            start = end
        caches = {}
        for layer, pair in enumerate(zip(keys.numpy(), values.numpy(), strict=True)):
            caches |= {
                f"present.{layer}.{kind}": each for kind, each in zip(("key", "value"), pair, strict=True)
            }
        return {**caches, "logits": np.concatenate(logits, axis=1)}

    def run_whole(self, case: Case) -> np.ndarray:
        """The logits of a whole case through `serving_default`."""
        import tensorflow as tf

        ids, mask = tf.constant(case.token_ids), tf.constant(case.mask)
        return self.model.signatures["serving_default"](input_ids=ids, attention_mask=mask)["logits"].numpy()

    def predict(self, token_ids: np.ndarray) -> np.ndarray:
        """int64 `[rows, length]` -> float32 `[rows, length, vocabulary]`."""
        return self.run_whole(whole_case(token_ids))

    def decoder(self, context_length: int) -> "SavedModelDecoder":
        """A decoder over `cached_step`."""
        return SavedModelDecoder(self, context_length)

    def _empty(self, num_rows: int):
        import tensorflow as tf

        config = self.config
        return tf.zeros((config.num_layers, num_rows, config.num_key_value_heads, 0, config.head_dim))

    def _step(self, token_ids, mask, keys, values):
        import tensorflow as tf

        return self.model.signatures["cached_step"](
            input_ids=tf.constant(token_ids),
            attention_mask=tf.constant(mask),
            past_keys=keys,
            past_values=values,
        )


class SavedModelDecoder:
    """`tfgpt.generation.loop.Decoder` over `cached_step`, with a growing cache."""

    def __init__(self, runner: SavedModelRunner, context_length: int):
        self.vocabulary_size = runner.config.vocabulary_size
        self.context_length = context_length
        self._runner = runner
        self._mask = self._keys = self._values = None

    def prefill(self, token_ids, mask, capacity):
        """See `Decoder.prefill`."""
        self._mask, self._keys = mask, self._runner._empty(len(token_ids))
        self._values = self._keys
        return self._advance(token_ids)

    def step(self, token_ids):
        """See `Decoder.step`."""
        self._mask = np.pad(self._mask, ((0, 0), (0, 1)), constant_values=1)
        return self._advance(token_ids[:, None])

    def keep(self, rows):
        """See `Decoder.keep`: every row is kept."""
        return np.arange(len(self._mask))

    def _advance(self, token_ids):
        found = self._runner._step(token_ids, self._mask, self._keys, self._values)
        self._keys, self._values = found["present_keys"], found["present_values"]
        return found["logits"].numpy()[:, -1]
