"""GPT-Neo: Black et al. 2021, "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow".

Reference: https://github.com/EleutherAI/gpt-neo and transformers' modeling_gpt_neo.py; config.json as
published at https://huggingface.co/EleutherAI/gpt-neo-125m (-1.3B, -2.7B).

Attention alternates between all tokens and a band of 256; scores are not scaled; queries, keys and values
have no biases, while the map after attention has one.
"""

from tfgpt.checkpoints.rules import TRANSPOSE, Rule, side_by_side
from tfgpt.config import ModelConfig, check_num_layers
from tfgpt.errors import InputError
from tfgpt.families import gpt2
from tfgpt.families.activations import read_activation, write_activation
from tfgpt.families.family import Family, Published

# What all GPT-Neo share beyond what config.json states.
SHARED = {"score_scale": 1.0, "attention_bias": False, "attention_output_bias": True}

_COMMON = {
    **SHARED,
    "vocabulary_size": 50257,
    "context_length": 2048,
    "attention_pattern": ["global", "local"],
    "window": 256,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}

SIZES = {
    "125m": {**_COMMON, "num_layers": 12, "num_heads": 12, "hidden_dim": 768},
    "1.3b": {**_COMMON, "num_layers": 24, "num_heads": 16, "hidden_dim": 2048},
    "2.7b": {**_COMMON, "num_layers": 32, "num_heads": 20, "hidden_dim": 2560},
}

PUBLISHED = {
    "125m": Published("EleutherAI/gpt-neo-125m", "MIT"),
    "1.3b": Published("EleutherAI/gpt-neo-1.3B", "MIT"),
    "2.7b": Published("EleutherAI/gpt-neo-2.7B", "MIT"),
}

FIELDS = {
    "vocab_size": "vocabulary_size",
    "max_position_embeddings": "context_length",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "window_size": "window",
    "layer_norm_epsilon": "norm_epsilon",
    "resid_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "embed_dropout": "embedding_dropout",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}

# transformers' GPTNeoConfig.
DEFAULTS = {
    "intermediate_size": None,
    "window_size": 256,
    "activation_function": "gelu_new",
    "resid_dropout": 0.0,
    "attention_dropout": 0.0,
    "embed_dropout": 0.0,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "attention_types": [[["global", "local"], 12]],
}


def weights(config: ModelConfig) -> tuple[Rule, ...]:
    """The weight table: GPT-2's names for what is GPT-2's, PyTorch's Linear for the maps."""
    block, ours = "h.{layer}", "decoder/block_{layer}"
    projections = tuple(f"{block}.attn.attention.{name}_proj.weight" for name in "qkv")
    size = config.num_heads * config.head_dim
    rules = (
        *(rule for rule in gpt2.WEIGHTS if "/kernel" not in rule.target and "/bias" not in rule.target),
        Rule(projections, f"{ours}/attention/qkv/kernel", side_by_side(size, size, size)),
        Rule(f"{block}.attn.attention.out_proj.weight", f"{ours}/attention/output/kernel", TRANSPOSE),
        Rule(f"{block}.attn.attention.out_proj.bias", f"{ours}/attention/output/bias"),
        Rule(f"{block}.mlp.c_fc.weight", f"{ours}/mlp/up/kernel", TRANSPOSE),
        Rule(f"{block}.mlp.c_fc.bias", f"{ours}/mlp/up/bias"),
        Rule(f"{block}.mlp.c_proj.weight", f"{ours}/mlp/down/kernel", TRANSPOSE),
        Rule(f"{block}.mlp.c_proj.bias", f"{ours}/mlp/down/bias"),
    )
    return rules if config.tie_embeddings else rules + gpt2.UNTIED_HEAD


def read_particulars(values: dict) -> dict:
    """The choices of config.json that are not one field each, and those that all GPT-Neo share."""
    return {
        **SHARED,
        "activation": read_activation(values, "activation_function"),
        "attention_pattern": _attention_layers(values),
    }


def _attention_layers(values: dict) -> list[str]:
    """`attention_types` is a list of (kinds of consecutive layers, how often they are repeated)."""
    types = values["attention_types"]
    types = DEFAULTS["attention_types"] if types is None else types
    try:
        groups = [(list(kinds), range(times)) for kinds, times in types]
    except (TypeError, ValueError):
        raise InputError(
            f"attention_types is {types!r}: expected such as [[['global', 'local'], 12]]"
        ) from None
    # Counted before they are written out: a config.json may state any number.
    described = sum(len(kinds) * max(times.stop, 0) for kinds, times in groups)
    if described != values["num_layers"]:
        raise InputError(
            f"attention_types describes {described} layers, but num_layers is {values['num_layers']}: "
            "the two must agree"
        )
    check_num_layers(described)
    layers = [kind for kinds, times in groups if kinds for _ in times for kind in kinds]
    _check_same_layers(values.get("attention_layers"), layers)
    return layers


def _check_same_layers(stated, layers: list[str]) -> None:
    """GPTNeoConfig writes the kind of every layer, too, and believes them where they stand."""
    if stated is None or stated == layers:
        return
    if not isinstance(stated, list) or len(stated) != len(layers):
        found = f"{len(stated)} layers" if isinstance(stated, list) else repr(stated)
        raise InputError(f"attention_layers is {found}: expected one kind for each of {len(layers)} layers")
    layer = next(layer for layer, kind in enumerate(layers) if stated[layer] != kind)
    raise InputError(
        f"attention_layers has {stated[layer]!r} for layer {layer}, but attention_types makes it "
        f"{layers[layer]!r} (if it is not stated: 12 times global and local): make the two agree"
    )


def write_particulars(config: ModelConfig) -> dict:
    """The inverse of `read_particulars`, with what other tools look for."""
    layers = [config.attention_of(layer).value for layer in range(config.num_layers)]
    _, attention, embedding = config.rates
    return {
        "activation_function": write_activation(config),
        "attention_types": [[layers, 1]],
        "attention_layers": layers,
        "window_size": DEFAULTS["window_size"] if config.window is None else config.window,
        "attention_dropout": attention,
        "embed_dropout": embedding,
        "use_cache": True,
    }


FAMILY = Family(
    name="gpt_neo",
    title="GPT-Neo",
    paper="https://doi.org/10.5281/zenodo.5297715",
    reference="https://github.com/EleutherAI/gpt-neo",
    model_type="gpt_neo",
    architecture="GPTNeoForCausalLM",
    defaults=DEFAULTS,
    fields=FIELDS,
    required=("vocab_size", "max_position_embeddings", "num_layers", "num_heads", "hidden_size"),
    sizes=SIZES,
    published=PUBLISHED,
    weights=weights,
    prefix="transformer.",
    # GPTNeoConfig.attribute_map
    aliases={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    # Causal masks that old versions of transformers saved as buffers, and a tied head saved a second time.
    ignored=(r"h\.\d+\.attn\.attention\.(bias|masked_bias)", r"lm_head\.weight"),
    read_particulars=read_particulars,
    write_particulars=write_particulars,
)
