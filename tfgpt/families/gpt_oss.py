"""gpt-oss: OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card" (https://arxiv.org/abs/2508.10925).

Reference: https://github.com/openai/gpt-oss (gpt_oss/torch/model.py) and transformers' modeling_gpt_oss.py.
Sizes: table 1 of the model card, total parameters with both token tables; config.json as published at
https://huggingface.co/openai/gpt-oss-20b (-120b). Licence: Apache 2.0.

The published experts are MXFP4 blocks; they are read into floats, and floats are written. The loss that
balances the experts (`router_aux_loss_coef`) is not covered.
"""

import dataclasses

import numpy as np

from tfgpt.checkpoints.mxfp4 import MXFP4
from tfgpt.checkpoints.rules import TRANSPOSE, Rule, Transform, side_by_side
from tfgpt.config import Attention, ModelConfig
from tfgpt.errors import InputError, nearest
from tfgpt.families.family import Family, Published, is_same

# What every gpt-oss is, and what its config.json has no word for.
_ALWAYS = {
    "norm": "rms",
    "residual": "pre_norm",
    "positions": "rotary_split",
    "activation": "clamped_swiglu",
    "attention_sinks": True,
}
_YARN = {"factor": 32.0, "original_context": 4096, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}

_COMMON = {
    **_ALWAYS,
    "vocabulary_size": 201088,
    "context_length": 131072,
    "num_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_dim": 2880,
    "intermediate_dim": 2880,
    "num_experts_per_token": 4,
    "attention_pattern": ["local", "global"],
    "window": 128,
    "rotary_base": 150000.0,
    "yarn": _YARN,
    "tie_embeddings": False,
    "eos_token_id": 200002,
    "pad_token_id": 199999,
}

SIZES = {
    "20b": {**_COMMON, "num_layers": 24, "num_experts": 32},
    "120b": {**_COMMON, "num_layers": 36, "num_experts": 128},
}

PUBLISHED = {
    "20b": Published("openai/gpt-oss-20b", "Apache-2.0"),
    "120b": Published("openai/gpt-oss-120b", "Apache-2.0"),
}

FIELDS = {
    "vocab_size": "vocabulary_size",
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "num_local_experts": "num_experts",
    "swiglu_alpha": "swiglu_alpha",
    "swiglu_limit": "swiglu_limit",
    "sliding_window": "window",
    "rms_norm_eps": "norm_epsilon",
    "attention_bias": "attention_bias",
    "attention_dropout": "attention_dropout",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}

# transformers' GptOssConfig: what a key means when config.json leaves it out.
DEFAULTS = {
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2880,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "sliding_window": 128,
    "rms_norm_eps": 1e-5,
    "attention_bias": True,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "layer_types": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_ROTARY_BASE = 150000.0
_EXPERTS_PER_TOKEN = 4

# Published kernels of experts are [experts, in, out], ours [experts, out, in], as the MXFP4 blocks are.
_SWAPPED = Transform(
    forward=lambda tensors: [np.swapaxes(tensor, 1, 2) for tensor in tensors],
    inverse=lambda tensors: [np.ascontiguousarray(np.swapaxes(tensor, 1, 2)) for tensor in tensors],
)

WEIGHTS = (
    Rule("embed_tokens.weight", "decoder/token_embedding/table"),
    Rule("layers.{layer}.input_layernorm.weight", "decoder/block_{layer}/attention_norm/scale"),
    Rule("layers.{layer}.self_attn.sinks", "decoder/block_{layer}/attention/sinks"),
    Rule(
        "layers.{layer}.self_attn.o_proj.weight",
        "decoder/block_{layer}/attention/output/kernel",
        TRANSPOSE,
    ),
    Rule("layers.{layer}.post_attention_layernorm.weight", "decoder/block_{layer}/mlp_norm/scale"),
    Rule("layers.{layer}.mlp.router.weight", "decoder/block_{layer}/mlp/router/kernel", TRANSPOSE),
    Rule("layers.{layer}.mlp.router.bias", "decoder/block_{layer}/mlp/router/bias"),
    Rule("layers.{layer}.mlp.experts.gate_up_proj", "decoder/block_{layer}/mlp/up_kernel", _SWAPPED),
    Rule("layers.{layer}.mlp.experts.gate_up_proj_bias", "decoder/block_{layer}/mlp/up_bias"),
    Rule("layers.{layer}.mlp.experts.down_proj", "decoder/block_{layer}/mlp/down_kernel", _SWAPPED),
    Rule("layers.{layer}.mlp.experts.down_proj_bias", "decoder/block_{layer}/mlp/down_bias"),
    Rule("norm.weight", "decoder/final_norm/scale"),
)
# As OpenAI publishes them; `gate` and `up` alternate in both forms, and in ours.
PACKED_EXPERTS = (
    Rule(
        (
            "layers.{layer}.mlp.experts.gate_up_proj_blocks",
            "layers.{layer}.mlp.experts.gate_up_proj_scales",
        ),
        "decoder/block_{layer}/mlp/up_kernel",
        MXFP4,
    ),
    Rule(
        ("layers.{layer}.mlp.experts.down_proj_blocks", "layers.{layer}.mlp.experts.down_proj_scales"),
        "decoder/block_{layer}/mlp/down_kernel",
        MXFP4,
    ),
)
OUTPUT_BIAS = Rule("layers.{layer}.self_attn.o_proj.bias", "decoder/block_{layer}/attention/output/bias")
UNTIED_HEAD = Rule("lm_head.weight", "head/kernel", TRANSPOSE)


def weights(config: ModelConfig) -> tuple[Rule, ...]:
    """The weight table; queries, keys and values are one map of ours."""
    queries = config.num_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    kinds = ("weight", "bias") if config.attention_bias else ("weight",)
    joined = tuple(
        Rule(
            tuple(f"layers.{{layer}}.self_attn.{part}_proj.{kind}" for part in "qkv"),
            f"decoder/block_{{layer}}/attention/qkv/{'kernel' if kind == 'weight' else 'bias'}",
            side_by_side(queries, keys, keys),
        )
        for kind in kinds
    )
    output_bias = (OUTPUT_BIAS,) if config.attention_output_bias else ()
    head = () if config.tie_embeddings else (UNTIED_HEAD,)
    return WEIGHTS + joined + output_bias + PACKED_EXPERTS + head


def read_particulars(values: dict) -> dict:
    """The choices of config.json that are not one field each."""
    if values["hidden_act"] != "silu":
        raise InputError(f"hidden_act is {values['hidden_act']!r}: expected 'silu', as gpt-oss has")
    if values["num_local_experts"] is None:
        raise InputError("num_local_experts is null: expected the number of experts")
    return {
        **_ALWAYS,
        "attention_output_bias": values["attention_bias"],
        "attention_pattern": _read_pattern(values),
        "num_experts_per_token": _read_experts_per_token(values),
        **_read_rotary(values),
    }


def _read_pattern(values: dict) -> tuple[Attention, ...]:
    stated = values["layer_types"]
    if stated is None:
        return (Attention.LOCAL, Attention.GLOBAL)
    if not isinstance(stated, list) or len(stated) != values["num_hidden_layers"]:
        raise InputError(
            f"layer_types is {stated!r}: expected one kind for each of {values['num_hidden_layers']} layers"
        )
    for kind in stated:
        if not isinstance(kind, str) or kind not in _KINDS:
            raise InputError(f"layer_types has {kind!r}{nearest(str(kind), _KINDS)}")
    return tuple(_KINDS[kind] for kind in stated)


_KINDS = {"sliding_attention": Attention.LOCAL, "full_attention": Attention.GLOBAL}


def _read_experts_per_token(values: dict) -> int:
    """Two spellings are published side by side, of which transformers reads the first."""
    number = values.get("num_experts_per_tok", _EXPERTS_PER_TOKEN)
    also = values.get("experts_per_token")
    if also is not None and not is_same(number, also):
        raise InputError(
            f"num_experts_per_tok is {number!r} (where it is not stated: {_EXPERTS_PER_TOKEN}), but "
            f"experts_per_token is {also!r}: expected one number of experts for each token; state it as both"
        )
    return number


def _read_rotary(values: dict) -> dict:
    """`rope_parameters` of transformers 5, or the published `rope_scaling` and `rope_theta`."""
    stated = values.get("rope_scaling") or values.get("rope_parameters")
    base = values.get("rope_theta", _ROTARY_BASE)
    if stated is None:
        return {"rotary_base": base, "yarn": _YARN}
    if not isinstance(stated, dict):
        raise InputError(f"rope_parameters is {stated!r}: expected a table with rope_type")
    # transformers takes what is not stated for true, and null for false.
    truncate = {"truncate": False} if "truncate" in stated and stated["truncate"] is None else {}
    stated = {key: value for key, value in stated.items() if value is not None} | truncate
    base = stated.pop("rope_theta", base)
    kind = stated.pop("rope_type", stated.pop("type", None))
    stated.pop("type", None)
    if kind == "default":
        return {"rotary_base": base, "yarn": None}
    if kind != "yarn":
        raise InputError(f"rope_type is {kind!r}: expected 'yarn' or 'default'")
    for key in stated:
        if key not in _YARN_KEYS:
            raise InputError(f"rope_parameters has {key!r}{nearest(str(key), _YARN_KEYS)}")
    return {"rotary_base": base, "yarn": {_YARN_KEYS[key]: value for key, value in stated.items()}}


_YARN_KEYS = {
    "factor": "factor",
    "original_max_position_embeddings": "original_context",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "attention_factor": "attention_factor",
}


def write_particulars(config: ModelConfig) -> dict:
    """The inverse of `read_particulars`, in the spelling that every version of the readers knows."""
    kinds = {ours: theirs for theirs, ours in _KINDS.items()}
    rotary = {"rope_type": "default"}
    if config.yarn is not None:
        rotary = {"rope_type": "yarn"}
        rotary |= {theirs: getattr(config.yarn, ours) for theirs, ours in _YARN_KEYS.items()}
        if config.yarn == dataclasses.replace(config.yarn, attention_factor=None):
            del rotary["attention_factor"]  # the one that follows from the factor
    _, attention, _ = config.rates
    return {
        "hidden_act": "silu",
        "attention_dropout": attention,
        "layer_types": [kinds[config.attention_of(layer)] for layer in range(config.num_layers)],
        "num_experts_per_tok": config.num_experts_per_token,
        "experts_per_token": config.num_experts_per_token,
        "rope_scaling": rotary,
        "rope_theta": config.rotary_base,
        "output_router_logits": False,
        "use_cache": True,
    }


FAMILY = Family(
    name="gpt_oss",
    title="gpt-oss",
    paper="https://arxiv.org/abs/2508.10925",
    reference="https://github.com/openai/gpt-oss/blob/main/gpt_oss/torch/model.py",
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    defaults=DEFAULTS,
    fields=FIELDS,
    required=("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_local_experts"),
    sizes=SIZES,
    published=PUBLISHED,
    weights=weights,
    prefix="model.",
    aliases={"num_experts": "num_local_experts"},  # GptOssConfig.attribute_map
    ignored=(r"lm_head\.weight",),
    read_particulars=read_particulars,
    write_particulars=write_particulars,
)
