"""The reference that every artifact is held against, asked of the Keras model itself."""

from functools import cached_property

import numpy as np

from tfgpt.families.counting import count_parameters
from tfgpt.generation.keras_decoder import KerasDecoder
from tfgpt.generation.options import GenerationOptions
from tfgpt.models.causal_lm import CausalLM
from tfgpt_export import greedy
from tfgpt_export.agreement import Agreement, Predict, measure_agreement
from tfgpt_export.recorded import record_answer, record_text
from tfgpt_export.reference import answer, make_cases
from tfgpt_export.reference_file import RecordedReference, SignSource

BYTES_AT_ONCE = 50_000_000
REMEMBERED_BYTES = 200_000_000


class KerasReference:
    """Keras's answers, each worked out when it is first needed.

    Attributes:
        whole: True; every number is compared, see `RecordedReference`.
    """

    whole = True

    def __init__(self, model: CausalLM, text: np.ndarray | None = None):
        """`text`: int `[rows, length]` to judge predictions on; `None` lets the model write its own."""
        self.model = model
        self.context_length = self.model.config.context_length
        self.text_is_given = text is not None
        self._text = text
        self._remembered: dict[bytes, np.ndarray] = {}

    @cached_property
    def text(self) -> np.ndarray:
        """int64 `[rows, length]`."""
        return sample_text(self.model) if self._text is None else np.asarray(self._text, np.int64)

    @cached_property
    def answers(self) -> list:
        """Logits and caches of every case."""
        config = self.model.config
        return [
            answer(self.model, case) for case in make_cases(config.vocabulary_size, config.context_length)
        ]

    @cached_property
    def greedy(self) -> greedy.GreedyReference:
        """Greedy tokens of prompts out of the text."""
        number = greedy.num_prompts(count_parameters(self.model.config))
        prompts = greedy.choose_prompts(self.text, number, self.context_length)
        num_new = greedy.num_new_tokens(prompts, self.context_length)
        return greedy.record_greedy(KerasDecoder(self.model), prompts, num_new)

    def agreement(self, predict: Predict) -> Agreement:
        """Compares another model's predictions on the text."""
        return measure_agreement(self._logits, predict, self.text, self._rows_at_once())

    def recorded(self) -> RecordedReference:
        """What of it travels with the export."""
        config, signs = self.model.config, SignSource()
        return RecordedReference(
            num_layers=config.num_layers,
            vocabulary_size=config.vocabulary_size,
            context_length=config.context_length,
            text_is_given=self.text_is_given,
            answers=[record_answer(each, signs.of) for each in self.answers],
            text=record_text(self._logits, self.text, self._rows_at_once()),
            greedy=self.greedy,
        )

    def _rows_at_once(self) -> int:
        row = 4 * self.text.shape[1] * self.model.config.vocabulary_size
        return max(1, BYTES_AT_ONCE // row)

    def _logits(self, token_ids: np.ndarray, training: bool = False) -> np.ndarray:
        """The model's, worked out once for all artifacts as long as they are not too large to keep."""
        key = token_ids.tobytes()
        if key in self._remembered:
            return self._remembered[key]
        logits = np.asarray(self.model(token_ids, training=training))
        if sum(each.nbytes for each in self._remembered.values()) + logits.nbytes <= REMEMBERED_BYTES:
            self._remembered[key] = logits
        return logits


def sample_text(model: CausalLM, rows: int = 16, length: int = 48) -> np.ndarray:
    """Text of the model's own, drawn at temperature 1: int64 `[rows, length]`."""
    length = min(length, model.config.context_length)
    first = np.random.default_rng(2).integers(0, model.config.vocabulary_size, rows)
    options = GenerationOptions(
        max_new_tokens=length - 1, temperature=1.0, seed=list(range(rows)), end_of_text_ids=()
    )
    results = model.generate([[int(token)] for token in first], options)
    return np.array([[*result.prompt_ids, *result.token_ids] for result in results])
