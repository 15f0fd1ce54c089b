"""GPT-NeoX: Black et al. 2022, "GPT-NeoX-20B" (arXiv:2204.06745); Pythia: Biderman et al. 2023 (2304.01373).

Reference: https://github.com/EleutherAI/gpt-neox and transformers' modeling_gpt_neox.py; config.json as
published at https://huggingface.co/EleutherAI/gpt-neox-20b and EleutherAI/pythia-14m to -12b.

Attention and MLP read a norm each in parallel; the first quarter of each head is turned in halves (split);
the published map of queries, keys and values holds them head by head.
"""

import math

import numpy as np

from tfgpt.checkpoints.rules import TRANSPOSE, Rule, Transform
from tfgpt.config import ModelConfig, Residual
from tfgpt.errors import InputError
from tfgpt.families.activations import read_activation, write_activation
from tfgpt.families.family import Family, Published

_COMMON = {
    "context_length": 2048,
    "residual": "parallel_two_norms",
    "positions": "rotary_split",
    "tie_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_PYTHIA = {**_COMMON, "vocabulary_size": 50304, "activation": "gelu"}


def _quarter(num_layers: int, num_heads: int, hidden_dim: int) -> dict:
    """The shape of a model that turns a quarter of each head, as all published ones do."""
    rotary_dim = hidden_dim // num_heads // 4
    return {
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
        "rotary_dim": rotary_dim,
    }


SIZES = {
    "20b": {**_COMMON, "vocabulary_size": 50432, "activation": "gelu_tanh", **_quarter(44, 64, 6144)},
    "pythia-14m": {**_PYTHIA, **_quarter(6, 4, 128)},
    "pythia-31m": {**_PYTHIA, **_quarter(6, 8, 256)},
    "pythia-70m": {**_PYTHIA, **_quarter(6, 8, 512)},
    "pythia-160m": {**_PYTHIA, **_quarter(12, 12, 768)},
    "pythia-410m": {**_PYTHIA, **_quarter(24, 16, 1024)},
    "pythia-1b": {**_PYTHIA, **_quarter(16, 8, 2048)},
    "pythia-1.4b": {**_PYTHIA, **_quarter(24, 16, 2048)},
    "pythia-2.8b": {**_PYTHIA, **_quarter(32, 32, 2560)},
    "pythia-6.9b": {**_PYTHIA, "vocabulary_size": 50432, **_quarter(32, 32, 4096)},
    "pythia-12b": {**_PYTHIA, "vocabulary_size": 50688, **_quarter(36, 40, 5120)},
}

PUBLISHED = {
    "20b": Published("EleutherAI/gpt-neox-20b", "Apache-2.0"),
    **{size: Published(f"EleutherAI/{size}", "Apache-2.0") for size in SIZES if size.startswith("pythia-")},
}

FIELDS = {
    "vocab_size": "vocabulary_size",
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "layer_norm_eps": "norm_epsilon",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}

# transformers' GPTNeoXConfig; its ids of special tokens are another model's, and count only where stated.
DEFAULTS = {
    "hidden_act": "gelu",
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "layer_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "attention_bias": True,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000.0,
}


def _by_kind(config: ModelConfig) -> Transform:
    """`[heads, (q, k, v), width]` of the published rows <-> all queries, all keys, all values of ours."""
    heads, width = config.num_heads, config.head_dim

    def forward(tensors):
        (tensor,) = tensors
        parts = tensor.reshape(heads, 3, width, *tensor.shape[1:]).swapaxes(0, 1)
        return [parts.reshape(tensor.shape).T]

    def inverse(tensors):
        tensor = tensors[0].T
        parts = tensor.reshape(3, heads, width, *tensor.shape[1:]).swapaxes(0, 1)
        return [np.ascontiguousarray(parts.reshape(tensor.shape))]

    return Transform(forward, inverse)


def weights(config: ModelConfig) -> tuple[Rule, ...]:
    """The weight table; biases of attention and an untied head are rows more."""
    block, ours = "layers.{layer}", "decoder/block_{layer}"
    rules = (
        Rule("embed_in.weight", "decoder/token_embedding/table"),
        Rule(f"{block}.input_layernorm.weight", f"{ours}/attention_norm/scale"),
        Rule(f"{block}.input_layernorm.bias", f"{ours}/attention_norm/offset"),
        Rule(f"{block}.attention.query_key_value.weight", f"{ours}/attention/qkv/kernel", _by_kind(config)),
        Rule(f"{block}.attention.dense.weight", f"{ours}/attention/output/kernel", TRANSPOSE),
        Rule(f"{block}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale"),
        Rule(f"{block}.post_attention_layernorm.bias", f"{ours}/mlp_norm/offset"),
        Rule(f"{block}.mlp.dense_h_to_4h.weight", f"{ours}/mlp/up/kernel", TRANSPOSE),
        Rule(f"{block}.mlp.dense_h_to_4h.bias", f"{ours}/mlp/up/bias"),
        Rule(f"{block}.mlp.dense_4h_to_h.weight", f"{ours}/mlp/down/kernel", TRANSPOSE),
        Rule(f"{block}.mlp.dense_4h_to_h.bias", f"{ours}/mlp/down/bias"),
        Rule("final_layer_norm.weight", "decoder/final_norm/scale"),
        Rule("final_layer_norm.bias", "decoder/final_norm/offset"),
    )
    if config.attention_bias:
        rules += (
            Rule(f"{block}.attention.query_key_value.bias", f"{ours}/attention/qkv/bias", _by_kind(config)),
            Rule(f"{block}.attention.dense.bias", f"{ours}/attention/output/bias"),
        )
    return rules if config.tie_embeddings else (*rules, Rule("embed_out.weight", "head/kernel", TRANSPOSE))


def read_particulars(values: dict) -> dict:
    """The choices of config.json that are not one field each, and those that all GPT-NeoX share."""
    for key in ("use_parallel_residual", "attention_bias"):
        if not isinstance(values[key], bool):
            raise InputError(f"{key} is {values[key]!r}: expected true or false")
    parallel = values["use_parallel_residual"]
    return {
        "activation": read_activation(values, "hidden_act"),
        "residual": Residual.PARALLEL_TWO_NORMS if parallel else Residual.PRE_NORM,
        "positions": "rotary_split",
        "attention_bias": values["attention_bias"],
        "attention_output_bias": values["attention_bias"],
        **_read_rotary(values),
    }


def _read_rotary(values: dict) -> dict:
    """`rope_parameters` of transformers 5, or `rotary_pct` and `rotary_emb_base` of the versions before."""
    # Where both stand, the older key wins: convert_rope_params_to_dict of configuration_gpt_neox.py.
    stated = values.get("rope_scaling") or values.get("rope_parameters") or {}
    kind = stated.get("rope_type", stated.get("type", "default")) if isinstance(stated, dict) else stated
    if kind != "default":
        raise InputError(f"rope_type is {kind!r}: expected 'default', the only one built for GPT-NeoX")
    share = stated.get("partial_rotary_factor", values["rotary_pct"])
    base = stated.get("rope_theta", values["rotary_emb_base"])
    sizes = (values["hidden_size"], values["num_attention_heads"])
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise InputError(f"rotary_pct is {share!r}: expected the rotated share of each head, such as 0.25")
    if not all(isinstance(size, int) and 0 < size < 2**31 for size in sizes):
        raise InputError(f"hidden_size, num_attention_heads are {sizes}: expected whole numbers above 0")
    width = sizes[0] // sizes[1]
    if values.get("head_dim") not in (None, width):
        raise InputError(
            f"head_dim is {values['head_dim']!r}: expected {width}, which is hidden_size / "
            "num_attention_heads; GPT-NeoX has no heads of another width"
        )
    return {"rotary_dim": int(width * share), "rotary_base": base}


def write_particulars(config: ModelConfig) -> dict:
    """The inverse of `read_particulars`, in the spellings of transformers 5 and of those before."""
    share = (config.rotary_dim or config.head_dim) / config.head_dim
    if int(config.head_dim * share) < (config.rotary_dim or config.head_dim):
        share = math.nextafter(share, 1.0)  # the reader rounds down
    _, attention, _ = config.rates
    return {
        "hidden_act": write_activation(config),
        "use_parallel_residual": config.residual is Residual.PARALLEL_TWO_NORMS,
        "attention_bias": config.attention_bias,
        "attention_dropout": attention,
        "rotary_pct": share,
        "rotary_emb_base": config.rotary_base,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rotary_base,
            "partial_rotary_factor": share,
        },
        "use_cache": True,
    }


FAMILY = Family(
    name="gpt_neox",
    title="GPT-NeoX",
    paper="https://arxiv.org/abs/2204.06745",
    reference="https://github.com/EleutherAI/gpt-neox",
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    defaults=DEFAULTS,
    fields=FIELDS,
    required=(
        "vocab_size",
        "max_position_embeddings",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "intermediate_size",
    ),
    sizes=SIZES,
    published=PUBLISHED,
    weights=weights,
    prefix="gpt_neox.",
    head="embed_out.",
    # Causal masks and rotary frequencies that old versions of transformers saved as buffers, and a tied head
    # saved a second time.
    ignored=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)", r"embed_out\.weight"),
    read_particulars=read_particulars,
    write_particulars=write_particulars,
)
