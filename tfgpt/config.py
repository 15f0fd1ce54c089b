"""What a model is: one frozen dataclass and its enums. Loads no TensorFlow.

The families of GPT differ on few axes. An exclusive choice is one enum here, and layers are chosen by it
when a model is built, never while it is called.
"""

import dataclasses
import math
from typing import Any

from tfgpt.axes import (
    Activation,
    Attention,
    Norm,
    Positions,
    Residual,
    Yarn,
    check_types,
    member_of,
)
from tfgpt.errors import InputError, nearest

_ENUMS = {"norm": Norm, "residual": Residual, "positions": Positions, "activation": Activation}


# Far above the deepest Transformer (DeepNet, arXiv 2203.00555: 1,000): lists of every layer stay small.
MOST_LAYERS = 10_000


def check_num_layers(number: int) -> None:
    """InputError for more layers than any model has, before something is made for each of them."""
    if number > MOST_LAYERS:
        raise InputError(f"num_layers is {number}: expected at most {MOST_LAYERS}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape and the choices of one causal Transformer.

    Args:
        vocabulary_size: number of tokens.
        context_length: largest number of tokens a position exists for.
        num_layers: number of Transformer blocks.
        num_heads: query heads of each attention layer.
        hidden_dim: width of the residual stream.
        intermediate_dim: width of the MLP; `None` means `4 * hidden_dim`.
        num_key_value_heads: key and value heads (grouped-query attention, Ainslie et al. 2023); `None` means
            `num_heads`.
        head_dim: width of a head; `None` means `hidden_dim // num_heads`. GPT-3's table needs it free.
        family: the file in `tfgpt.families` that reads and writes this model's checkpoints.
        norm, norm_epsilon, residual, positions, activation: the axes; see the enums above.
        attention_pattern: kinds of attention, repeated over the layers: `("global", "local")` alternates.
        window: tokens a query of a local layer sees, itself included.
        attention_sinks: each head has a learned score that takes part in the softmax and leads nowhere (Xiao
            et al. 2023, arXiv 2309.17453, section 3.3; as here in the gpt-oss model card, arXiv 2508.10925).
        score_scale: factor on query-key products; `None` means `head_dim ** -0.5`.
        scale_by_inverse_layer: divide the scores of layer i (from 0) by i + 1 as well.
        rotary_dim: rotated part of each head; `None` means all of it. `rotary_base`: its wavelength base.
        yarn: how rotary positions are stretched, a `Yarn` or the dictionary of one; `None`: they are not.
        num_experts, num_experts_per_token: every MLP is a mixture of that many, of which a token takes the
            best few (Shazeer et al. 2017, arXiv 1701.06538); `None`: one MLP.
        swiglu_alpha, swiglu_limit: the slope of the sigmoid and the clamp of CLAMPED_SWIGLU.
        attention_bias, attention_output_bias, mlp_bias: whether the linear maps have biases.
        tie_embeddings: the head is the token table transposed. `head_bias`: the head adds a bias.
        dropout: rate on the residual branches; `attention_dropout` and `embedding_dropout` follow it when
            `None`.
        initializer_range: standard deviation of the initial weights (Radford et al. 2019).
        bos_token_id, eos_token_id, pad_token_id: special tokens; `None` where the model has none.

    Raises:
        InputError: a value is of the wrong type, out of range, or contradicts another.
    """

    vocabulary_size: int
    context_length: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    family: str = "gpt2"
    norm: Norm = Norm.LAYER
    norm_epsilon: float = 1e-5
    residual: Residual = Residual.PRE_NORM
    positions: Positions = Positions.LEARNED
    activation: Activation = Activation.GELU_TANH
    attention_pattern: tuple[Attention, ...] = (Attention.GLOBAL,)
    window: int | None = None
    attention_sinks: bool = False
    score_scale: float | None = None
    scale_by_inverse_layer: bool = False
    rotary_dim: int | None = None
    rotary_base: float = 10000.0
    yarn: Yarn | None = None
    num_experts: int | None = None
    num_experts_per_token: int | None = None
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    attention_bias: bool = True
    attention_output_bias: bool = True
    mlp_bias: bool = True
    tie_embeddings: bool = True
    head_bias: bool = False
    dropout: float = 0.0
    attention_dropout: float | None = None
    embedding_dropout: float | None = None
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self):
        self._coerce_enums()
        self._coerce_yarn()
        check_types(self)
        self._fill_defaults()
        self._check_ranges()
        self._check_experts()

    @property
    def rates(self) -> tuple[float, float, float]:
        """Dropout rates of (residual branches, attention probabilities, embeddings)."""
        attention = self.dropout if self.attention_dropout is None else self.attention_dropout
        embedding = self.dropout if self.embedding_dropout is None else self.embedding_dropout
        return self.dropout, attention, embedding

    def attention_of(self, layer: int) -> Attention:
        """The kind of attention of layer number `layer`, counted from 0."""
        return self.attention_pattern[layer % len(self.attention_pattern)]

    def window_of(self, layer: int) -> int | None:
        """Tokens that a query of this layer sees, itself included; `None` is all of them."""
        return self.window if self.attention_of(layer) is Attention.LOCAL else None

    def score_scale_of(self, layer: int) -> float:
        """The factor on the query-key products of this layer."""
        scale = self.head_dim**-0.5 if self.score_scale is None else self.score_scale
        return scale / (layer + 1) if self.scale_by_inverse_layer else scale

    def to_dict(self) -> dict[str, Any]:
        """Plain values (enums as their strings), fit for JSON and for `from_dict`."""
        values = dataclasses.asdict(self)
        for name in _ENUMS:
            values[name] = values[name].value
        values["attention_pattern"] = [kind.value for kind in self.attention_pattern]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`. An unknown or a missing key raises `InputError`."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                raise InputError(f"ModelConfig has no field {name!r}{nearest(name, fields)}")
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in values:
                found = ", ".join(map(repr, values)) or "nothing"
                raise InputError(f"ModelConfig needs {name!r}: found only {found}")
        return cls(**values)

    def replace(self, **changes) -> "ModelConfig":
        """A copy with some fields changed, checked again."""
        return ModelConfig.from_dict({**self.to_dict(), **changes})

    def _coerce_enums(self):
        for name, kind in _ENUMS.items():
            object.__setattr__(self, name, member_of(kind, getattr(self, name), name))
        pattern = self.attention_pattern
        if not isinstance(pattern, (list, tuple)):
            raise InputError(f"attention_pattern is {pattern!r}: expected a list such as ['global', 'local']")
        kinds = tuple(member_of(Attention, kind, "attention_pattern") for kind in pattern)
        object.__setattr__(self, "attention_pattern", kinds)

    def _coerce_yarn(self):
        if self.yarn is None or isinstance(self.yarn, Yarn):
            return
        fields = [field.name for field in dataclasses.fields(Yarn)]
        if not isinstance(self.yarn, dict) or not {"factor", "original_context"} <= self.yarn.keys():
            raise InputError(f"yarn is {self.yarn!r}: expected a table with factor and original_context")
        for name in self.yarn:
            if name not in fields:
                raise InputError(f"yarn has no field {name!r}{nearest(str(name), fields)}")
        object.__setattr__(self, "yarn", Yarn(**self.yarn))

    def _fill_defaults(self):
        for name in ("vocabulary_size", "context_length", "num_layers", "num_heads", "hidden_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected at least 1")
        check_num_layers(self.num_layers)
        if self.head_dim is None and self.hidden_dim % self.num_heads:
            raise InputError(
                f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}: "
                "change one of them, or state head_dim"
            )
        defaults = {
            "intermediate_dim": 4 * self.hidden_dim,
            "num_key_value_heads": self.num_heads,
            "head_dim": self.hidden_dim // self.num_heads,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_ranges(self):
        for name in ("intermediate_dim", "num_key_value_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.num_heads % self.num_key_value_heads:
            raise InputError(
                f"num_heads {self.num_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}: every key head serves the same number of query heads"
            )
        for name in ("dropout", "attention_dropout", "embedding_dropout"):
            rate = getattr(self, name)
            if rate is not None and not 0.0 <= rate < 1.0:
                raise InputError(f"{name} is {rate}: expected a rate from 0 up to, but not including, 1")
        self._check_numbers()
        # After the number of layers: families list a kind for each, and none of none is not what is wrong.
        if not self.attention_pattern:
            raise InputError("attention_pattern is empty: expected a list such as ['global', 'local']")
        if Attention.LOCAL in self.attention_pattern and (self.window is None or self.window < 1):
            raise InputError(
                f"attention_pattern has local layers but window is {self.window}: state how many tokens "
                "they see (at least 1)"
            )
        rotated = self.rotary_dim
        if rotated is None and self.positions is not Positions.LEARNED:
            rotated = self.head_dim
        if self.yarn is not None and self.positions is Positions.LEARNED:
            raise InputError("yarn is given but positions are learned: expected rotary positions, or no yarn")
        if rotated is not None and (rotated % 2 or not 0 < rotated <= self.head_dim):
            raise InputError(
                f"rotary_dim is {rotated}: expected an even number up to head_dim {self.head_dim}"
            )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.vocabulary_size:
                raise InputError(f"{name} is {token}: expected an id from 0 to {self.vocabulary_size - 1}")

    def _check_experts(self):
        number, taken = self.num_experts, self.num_experts_per_token
        if (number is None) != (taken is None):
            raise InputError(
                f"num_experts is {number} and num_experts_per_token is {taken}: state both, or neither"
            )
        if number is None:
            return
        if not 1 <= taken <= number:
            raise InputError(f"num_experts_per_token is {taken}: expected 1 to num_experts {number}")
        if self.activation is not Activation.CLAMPED_SWIGLU:
            raise InputError(
                f"num_experts is {number} but activation is {self.activation.value!r}: expected "
                f"{Activation.CLAMPED_SWIGLU.value!r}, which experts are built with"
            )

    def _check_numbers(self):
        for name in ("norm_epsilon", "rotary_base", "swiglu_alpha", "swiglu_limit"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}: expected a finite number above 0")
        if not 0 <= self.initializer_range < math.inf:
            raise InputError(
                f"initializer_range is {self.initializer_range}: expected a finite number, at least 0"
            )
        if self.score_scale is not None and not math.isfinite(self.score_scale):
            raise InputError(f"score_scale is {self.score_scale}: expected a finite number or null")
