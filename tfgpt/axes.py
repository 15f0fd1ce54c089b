"""The axes on which the families of GPT differ, and how their values are checked. Loads no TensorFlow."""

import dataclasses
import enum
import math

from tfgpt.errors import InputError, nearest


class Norm(enum.StrEnum):
    """Normalisation over the hidden dimension."""

    LAYER = "layer"
    RMS = "rms"


class Residual(enum.StrEnum):
    """How attention and MLP are wired to the residual stream (drawn in `tfgpt.layers.block`)."""

    PRE_NORM = "pre_norm"
    POST_NORM = "post_norm"
    PARALLEL_ONE_NORM = "parallel_one_norm"
    PARALLEL_TWO_NORMS = "parallel_two_norms"


class Positions(enum.StrEnum):
    """Where the model learns the order of its tokens from."""

    LEARNED = "learned"
    ROTARY_SPLIT = "rotary_split"
    ROTARY_INTERLEAVED = "rotary_interleaved"


class Attention(enum.StrEnum):
    """What one layer's queries may look at: everything before them, or a band of `window` tokens."""

    GLOBAL = "global"
    LOCAL = "local"


class Activation(enum.StrEnum):
    """The nonlinearity of the MLP.

    GELU is exact, or its tanh approximation (Hendrycks and Gimpel 2016). CLAMPED_SWIGLU multiplies the two
    halves of a doubled width (Shazeer 2020, "GLU Variants Improve Transformer"), clamped as the gpt-oss model
    card says (arXiv 2508.10925).
    """

    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    CLAMPED_SWIGLU = "clamped_swiglu"


@dataclasses.dataclass(frozen=True)
class Yarn:
    """YaRN: rotary positions stretched to a longer context (Peng et al. 2023, arXiv 2309.00071, section 3).

    Args:
        factor: how many times longer the new context is.
        original_context: the context of the first training.
        beta_fast, beta_slow: pairs that turn more often than `beta_fast` within the original context stay as
            they are, those that turn less than `beta_slow` are slowed by `factor`, those between are mixed.
        truncate: round the ends of that ramp to whole pairs.
        attention_factor: on cosines and sines; `None` means `0.1 ln(factor) + 1` (equation 22's square root).

    Raises:
        InputError: a value is of the wrong type or out of range.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None

    def __post_init__(self):
        check_types(self)
        for name in ("factor", "beta_fast", "beta_slow", "attention_factor"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}: expected a finite number above 0")
        if self.original_context < 1:
            raise InputError(f"original_context is {self.original_context}: expected at least 1")
        if self.beta_fast <= self.beta_slow:
            raise InputError(f"beta_fast is {self.beta_fast}: expected more than beta_slow {self.beta_slow}")
        if self.attention_factor is None:
            grown = 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
            object.__setattr__(self, "attention_factor", grown)


_PLAIN = {
    int: (int,),
    float: (float, int),
    bool: (bool,),
    str: (str,),
    int | None: (int, type(None)),
    float | None: (float, int, type(None)),
}


# Sizes and ids are int32 in every format that a model is written in.
LARGEST_NUMBER = 2**31 - 1


def check_types(config) -> None:
    """Checks the plain fields of a dataclass; whole numbers become floats where a float is meant.

    Raises:
        InputError: a value is of another type than its field says.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        kinds = _PLAIN.get(field.type)
        if kinds is None:
            continue
        # bool is an int in Python; a model with True layers is a mistake all the same.
        wrong_bool = isinstance(value, bool) and bool not in kinds
        if wrong_bool or not isinstance(value, kinds):
            raise InputError(f"{field.name} is {value!r}: expected {_spell(field.type)}")
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise InputError(f"{field.name} is beyond {LARGEST_NUMBER}: expected a smaller number")
        if float in kinds and isinstance(value, int) and not isinstance(value, bool):
            object.__setattr__(config, field.name, float(value))


def _spell(kind) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}.get(
        kind, "a whole number or null" if kind == int | None else "a number or null"
    )


def member_of(kind: type[enum.Enum], value, name: str):
    """The member of an enum that a field's value names; `InputError` names the nearest when there is none."""
    try:
        return kind(value)
    except ValueError:
        names = [member.value for member in kind]
        raise InputError(f"{name} is {value!r}{nearest(str(value), names)}") from None
