"""What to generate and when to stop, as one frozen value. Loads no TensorFlow."""

import math
import numbers
from dataclasses import dataclass, fields

from tfgpt.errors import InputError

# Outside of these, logits / temperature or the temperature itself leaves float32's range; 0 means greedy.
SMALLEST_TEMPERATURE = 1e-6
LARGEST_TEMPERATURE = 1e30
# Logits times or by it stay finite in float32.
LARGEST_PENALTY = 1e6
LARGEST_SEED = 2**64 - 1
# What generation_config.json has no key for, or calls otherwise.
_NOT_IN_FILES = {
    "seed",
    "stop",
    "end_of_text_ids",
    "logprobs",
    "prompt_logprobs",
    "top_logprobs",
    "speculate",
}


@dataclass(frozen=True)
class GenerationOptions:
    """How tokens are chosen and when a row stops.

    The filters run in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p.

    Attributes:
        max_new_tokens: tokens to generate for each prompt, at least 1. A row whose prompt and new tokens
            fill the model's context stops earlier, with the finish reason "length".
        temperature: logits are divided by it; 0 is greedy, the largest logit, and the filters below are
            not used.
        top_k: keep the k largest logits (and those equal to the k-th); 0 keeps all.
        top_p: keep the fewest tokens, best first, whose probabilities reach p (Holtzman et al. 2020).
        min_p: keep the tokens at least `min_p` times as probable as the best (Nguyen et al. 2024).
        repetition_penalty: logits of tokens seen in the prompt or the new text are divided by it where
            positive, multiplied where negative (Keskar et al. 2019, section 4.1). Greedy uses it too.
        seed: one integer for every row, or one for each row. Row and batch-mates do not matter: the draw
            depends on the seed and on the number of tokens generated before in the same row.
        stop: strings that end a row; the text ends before the first of them to be completed.
        end_of_text_ids: token ids that end a row; None asks the tokenizer.
        logprobs: also return the natural logarithm of each new token's probability under the model, before
            any penalty, temperature or filter.
        prompt_logprobs: the same of each token of the prompt.
        top_logprobs: also return so many of the most probable tokens at the place of each new token, and with
            `prompt_logprobs` of each token of the prompt.
        speculate: the most tokens that are guessed at once by looking the last ones up in the text so far,
            and then checked together (`tfgpt.generation.guessing`); 0 guesses none. It changes no token,
            greedy or drawn, but where two are as close as the rounding of activations in int8 and int4; and
            only the engine of `tfgpt.serving` does it: others take no notice.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | tuple[int, ...] = 0
    stop: tuple[str, ...] = ()
    end_of_text_ids: tuple[int, ...] | None = None
    logprobs: bool = False
    prompt_logprobs: bool = False
    top_logprobs: int = 0
    speculate: int = 0

    def __post_init__(self):
        """Raises InputError for a value out of range or of the wrong type."""
        _require("max_new_tokens", self.max_new_tokens, is_integer, 1, math.inf, "an integer of at least 1")
        _require(
            "top_k", self.top_k, is_integer, 0, math.inf, "an integer of at least 0 (0 keeps every token)"
        )
        if not _is_number(self.temperature) or (
            self.temperature != 0 and not SMALLEST_TEMPERATURE <= self.temperature <= LARGEST_TEMPERATURE
        ):
            raise InputError(
                f"found temperature={self.temperature!r}, expected 0 (greedy) or a number from "
                f"{SMALLEST_TEMPERATURE} to {LARGEST_TEMPERATURE:g}; use 0 for the most probable token"
            )
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise InputError(
                f"found top_p={self.top_p!r}, expected a number above 0 and at most 1 (1 keeps every token)"
            )
        _require("min_p", self.min_p, _is_number, 0, 1, "a number from 0 (keeps every token) to 1")
        _require(
            "repetition_penalty",
            self.repetition_penalty,
            _is_number,
            1 / LARGEST_PENALTY,
            LARGEST_PENALTY,
            f"a number from {1 / LARGEST_PENALTY:g} to {LARGEST_PENALTY:g} (1 changes nothing, more than 1 "
            "discourages repetition)",
        )
        object.__setattr__(self, "seed", _seed(self.seed))
        object.__setattr__(self, "stop", _stop(self.stop))
        if self.end_of_text_ids is not None:
            object.__setattr__(self, "end_of_text_ids", _token_ids(self.end_of_text_ids))
        for name in ("logprobs", "prompt_logprobs"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"found {name}={getattr(self, name)!r}, expected True or False")
        for name in ("top_logprobs", "speculate"):
            _require(name, getattr(self, name), is_integer, 0, math.inf, "an integer of at least 0")

    @classmethod
    def from_generation_config(cls, config: dict) -> "GenerationOptions":
        """Options from the contents of a Hugging Face generation_config.json.

        As in transformers, `do_sample` missing or false means greedy, whatever the temperature says. Null
        counts as missing. Keys of other ways to decode (`num_beams`, `typical_p`, ...) and `max_length`,
        which counts the prompt, are not used.

        Raises:
            InputError: when a value that is used is out of range or of the wrong type.
        """
        if not isinstance(config, dict):
            raise InputError(
                f"found {type(config).__name__} in generation_config.json, expected a JSON object of settings"
            )
        given = {key: value for key, value in config.items() if value is not None}
        names = {field.name for field in fields(cls)} - _NOT_IN_FILES
        settings = {name: given[name] for name in names if name in given}
        if not given.get("do_sample", False):
            settings["temperature"] = 0.0
        else:
            settings.setdefault("temperature", 1.0)
        if "stop_strings" in given:
            settings["stop"] = given["stop_strings"]
        if "eos_token_id" in given:
            settings["end_of_text_ids"] = given["eos_token_id"]
        return cls(**settings)

    def row_seeds(self, num_rows: int) -> tuple[int, ...]:
        """One seed for each row; raises InputError when there are seeds for another number of rows."""
        if isinstance(self.seed, int):
            return (self.seed,) * num_rows
        if len(self.seed) != num_rows:
            raise InputError(
                f"found {len(self.seed)} seeds for {num_rows} prompts, expected one seed for each prompt or "
                "one integer for all"
            )
        return self.seed


def is_integer(value) -> bool:
    """Whether `value` is a whole number of Python or NumPy; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _require(name, value, of_type, lowest, highest, expected):
    if not of_type(value) or not lowest <= value <= highest:
        raise InputError(f"found {name}={value!r}, expected {expected}")


def _seed(seed) -> int | tuple[int, ...]:
    many = isinstance(seed, list | tuple)
    seeds = tuple(seed) if many else (seed,)
    for value in seeds:
        _require(
            "seed", value, is_integer, 0, LARGEST_SEED, "an integer from 0 to 2**64 - 1, or one per prompt"
        )
    return tuple(map(int, seeds)) if many else int(seed)


def _stop(stop) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, list | tuple) or not all(isinstance(item, str) and item for item in strings):
        raise InputError(f"found stop={stop!r}, expected a string or a list of strings, none of them empty")
    return tuple(strings)


def _token_ids(ids) -> tuple[int, ...]:
    ids = (ids,) if is_integer(ids) else ids
    if not isinstance(ids, list | tuple) or not all(is_integer(item) and item >= 0 for item in ids):
        raise InputError(f"found end_of_text_ids={ids!r}, expected token ids, integers of at least 0")
    return tuple(map(int, ids))
