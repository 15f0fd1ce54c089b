"""GPT-J: Wang and Komatsuzaki 2021, "GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model".

Reference: https://github.com/kingoflolz/mesh-transformer-jax and transformers' modeling_gptj.py; config.json
as published at https://huggingface.co/EleutherAI/gpt-j-6b.

Attention and MLP read one norm in parallel; the first `rotary_dim` numbers of each head are turned in pairs
of neighbours (interleaved); attention has no biases; the head is not tied and has a bias.
"""

from tfgpt.checkpoints.rules import TRANSPOSE, Rule, side_by_side
from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.families import gpt2
from tfgpt.families.activations import read_activation, write_activation
from tfgpt.families.family import Family, Published

# What all GPT-J share beyond what config.json states.
SHARED = {
    "residual": "parallel_one_norm",
    "positions": "rotary_interleaved",
    "attention_bias": False,
    "attention_output_bias": False,
    "head_bias": True,
}

SIZES = {
    "6b": {
        **SHARED,
        "vocabulary_size": 50400,
        "context_length": 2048,
        "num_layers": 28,
        "num_heads": 16,
        "hidden_dim": 4096,
        "rotary_dim": 64,
        "tie_embeddings": False,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
}

PUBLISHED = {"6b": Published("EleutherAI/gpt-j-6b", "Apache-2.0")}

FIELDS = {
    "vocab_size": "vocabulary_size",
    "n_positions": "context_length",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "hidden_dim",
    "n_inner": "intermediate_dim",
    "rotary_dim": "rotary_dim",
    "layer_norm_epsilon": "norm_epsilon",
    "resid_pdrop": "dropout",
    "attn_pdrop": "attention_dropout",
    "embd_pdrop": "embedding_dropout",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}

# transformers' GPTJConfig.
DEFAULTS = {
    "n_inner": None,
    "rotary_dim": 64,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}


def weights(config: ModelConfig) -> tuple[Rule, ...]:
    """The weight table."""
    block, ours = "h.{layer}", "decoder/block_{layer}"
    projections = tuple(f"{block}.attn.{name}_proj.weight" for name in "qkv")
    size = config.num_heads * config.head_dim
    return (
        Rule("wte.weight", "decoder/token_embedding/table"),
        Rule(f"{block}.ln_1.weight", f"{ours}/attention_norm/scale"),
        Rule(f"{block}.ln_1.bias", f"{ours}/attention_norm/offset"),
        Rule(projections, f"{ours}/attention/qkv/kernel", side_by_side(size, size, size)),
        Rule(f"{block}.attn.out_proj.weight", f"{ours}/attention/output/kernel", TRANSPOSE),
        Rule(f"{block}.mlp.fc_in.weight", f"{ours}/mlp/up/kernel", TRANSPOSE),
        Rule(f"{block}.mlp.fc_in.bias", f"{ours}/mlp/up/bias"),
        Rule(f"{block}.mlp.fc_out.weight", f"{ours}/mlp/down/kernel", TRANSPOSE),
        Rule(f"{block}.mlp.fc_out.bias", f"{ours}/mlp/down/bias"),
        Rule("ln_f.weight", "decoder/final_norm/scale"),
        Rule("ln_f.bias", "decoder/final_norm/offset"),
        Rule("lm_head.weight", "head/kernel", TRANSPOSE),
        Rule("lm_head.bias", "head/bias"),
    )


def read_particulars(values: dict) -> dict:
    """The choices of config.json that are not one field each, and those that all GPT-J share."""
    if values["tie_word_embeddings"]:
        raise InputError("tie_word_embeddings is true: expected false, a tied head with a bias is not built")
    if values["rotary_dim"] is None:
        raise InputError("rotary_dim is null: expected how many numbers of each head are rotated, such as 64")
    return {**SHARED, "activation": read_activation(values, "activation_function")}


def write_particulars(config: ModelConfig) -> dict:
    """The inverse of `read_particulars`, with what other tools look for."""
    _, attention, embedding = config.rates
    return {
        "activation_function": write_activation(config),
        "rotary_dim": config.rotary_dim or config.head_dim,
        "attn_pdrop": attention,
        "embd_pdrop": embedding,
        "use_cache": True,
    }


FAMILY = Family(
    name="gptj",
    title="GPT-J",
    paper="https://arankomatsuzaki.wordpress.com/2021/06/04/gpt-j/",
    reference="https://github.com/kingoflolz/mesh-transformer-jax",
    model_type="gptj",
    architecture="GPTJForCausalLM",
    defaults=DEFAULTS,
    fields=FIELDS,
    required=("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"),
    sizes=SIZES,
    published=PUBLISHED,
    weights=weights,
    prefix="transformer.",
    aliases=gpt2.ALIASES,
    # Causal masks and tables of sines that old versions of transformers saved as buffers.
    ignored=(r"h\.\d+\.attn\.(bias|masked_bias|embed_positions)",),
    read_particulars=read_particulars,
    write_particulars=write_particulars,
)
