"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

Reference: https://github.com/openai/gpt-2 (src/model.py) and transformers' modeling_gpt2.py. Sizes: table 2
of the paper with the corrected parameter counts of the repository's README; config.json as published at
https://huggingface.co/openai-community/gpt2 (-medium, -large, -xl).
"""

from tfgpt.checkpoints.rules import TRANSPOSE, Rule
from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.families.activations import read_activation, write_activation
from tfgpt.families.family import Family, Published

_COMMON = {
    "vocabulary_size": 50257,
    "context_length": 1024,
    "dropout": 0.1,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}

_CEREBRAS = {**_COMMON, "context_length": 2048, "activation": "gelu", "dropout": 0.0}

SIZES = {
    "124m": {**_COMMON, "num_layers": 12, "num_heads": 12, "hidden_dim": 768},
    "355m": {**_COMMON, "num_layers": 24, "num_heads": 16, "hidden_dim": 1024},
    "774m": {**_COMMON, "num_layers": 36, "num_heads": 20, "hidden_dim": 1280},
    "1558m": {**_COMMON, "num_layers": 48, "num_heads": 25, "hidden_dim": 1600},
    # Zhang et al. 2020, "DialoGPT" (arXiv:1911.00536): https://huggingface.co/microsoft/DialoGPT-small
    # (-medium, -large).
    "dialogpt-small": {**_COMMON, "num_layers": 12, "num_heads": 12, "hidden_dim": 768},
    "dialogpt-medium": {**_COMMON, "num_layers": 24, "num_heads": 16, "hidden_dim": 1024},
    "dialogpt-large": {**_COMMON, "num_layers": 36, "num_heads": 20, "hidden_dim": 1280},
    # Dey et al. 2023, "Cerebras-GPT" (arXiv:2304.03208), table 1: https://huggingface.co/cerebras
    "cerebras-111m": {**_CEREBRAS, "num_layers": 10, "num_heads": 12, "hidden_dim": 768},
    "cerebras-256m": {**_CEREBRAS, "num_layers": 14, "num_heads": 17, "hidden_dim": 1088},
    "cerebras-590m": {**_CEREBRAS, "num_layers": 18, "num_heads": 12, "hidden_dim": 1536},
    "cerebras-1.3b": {**_CEREBRAS, "num_layers": 24, "num_heads": 16, "hidden_dim": 2048},
    "cerebras-2.7b": {**_CEREBRAS, "num_layers": 32, "num_heads": 32, "hidden_dim": 2560},
    "cerebras-6.7b": {**_CEREBRAS, "num_layers": 32, "num_heads": 32, "hidden_dim": 4096},
    "cerebras-13b": {**_CEREBRAS, "num_layers": 40, "num_heads": 40, "hidden_dim": 5120},
}

# transformers' Conv1D keeps [in, out], as Keras does: nothing is transposed.
WEIGHTS = (
    Rule("wte.weight", "decoder/token_embedding/table"),
    Rule("wpe.weight", "decoder/position_embedding/table"),
    Rule("h.{layer}.ln_1.weight", "decoder/block_{layer}/attention_norm/scale"),
    Rule("h.{layer}.ln_1.bias", "decoder/block_{layer}/attention_norm/offset"),
    Rule("h.{layer}.attn.c_attn.weight", "decoder/block_{layer}/attention/qkv/kernel"),
    Rule("h.{layer}.attn.c_attn.bias", "decoder/block_{layer}/attention/qkv/bias"),
    Rule("h.{layer}.attn.c_proj.weight", "decoder/block_{layer}/attention/output/kernel"),
    Rule("h.{layer}.attn.c_proj.bias", "decoder/block_{layer}/attention/output/bias"),
    Rule("h.{layer}.ln_2.weight", "decoder/block_{layer}/mlp_norm/scale"),
    Rule("h.{layer}.ln_2.bias", "decoder/block_{layer}/mlp_norm/offset"),
    Rule("h.{layer}.mlp.c_fc.weight", "decoder/block_{layer}/mlp/up/kernel"),
    Rule("h.{layer}.mlp.c_fc.bias", "decoder/block_{layer}/mlp/up/bias"),
    Rule("h.{layer}.mlp.c_proj.weight", "decoder/block_{layer}/mlp/down/kernel"),
    Rule("h.{layer}.mlp.c_proj.bias", "decoder/block_{layer}/mlp/down/bias"),
    Rule("ln_f.weight", "decoder/final_norm/scale"),
    Rule("ln_f.bias", "decoder/final_norm/offset"),
)
UNTIED_HEAD = (Rule("lm_head.weight", "head/kernel", TRANSPOSE),)

PUBLISHED = {
    "124m": Published("openai-community/gpt2", "MIT"),
    "355m": Published("openai-community/gpt2-medium", "MIT"),
    "774m": Published("openai-community/gpt2-large", "MIT"),
    "1558m": Published("openai-community/gpt2-xl", "MIT"),
    "dialogpt-small": Published("microsoft/DialoGPT-small", "MIT"),
    "dialogpt-medium": Published("microsoft/DialoGPT-medium", "MIT"),
    "dialogpt-large": Published("microsoft/DialoGPT-large", "MIT"),
    "cerebras-111m": Published("cerebras/Cerebras-GPT-111M", "Apache-2.0"),
    "cerebras-256m": Published("cerebras/Cerebras-GPT-256M", "Apache-2.0"),
    "cerebras-590m": Published("cerebras/Cerebras-GPT-590M", "Apache-2.0"),
    "cerebras-1.3b": Published("cerebras/Cerebras-GPT-1.3B", "Apache-2.0"),
    "cerebras-2.7b": Published("cerebras/Cerebras-GPT-2.7B", "Apache-2.0"),
    "cerebras-6.7b": Published("cerebras/Cerebras-GPT-6.7B", "Apache-2.0"),
    "cerebras-13b": Published("cerebras/Cerebras-GPT-13B", "Apache-2.0"),
}

FIELDS = {
    "vocab_size": "vocabulary_size",
    "n_positions": "context_length",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "hidden_dim",
    "n_inner": "intermediate_dim",
    "layer_norm_epsilon": "norm_epsilon",
    "resid_pdrop": "dropout",
    "attn_pdrop": "attention_dropout",
    "embd_pdrop": "embedding_dropout",
    "initializer_range": "initializer_range",
    "scale_attn_by_inverse_layer_idx": "scale_by_inverse_layer",
    "tie_word_embeddings": "tie_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}

# The `attribute_map` of transformers' GPT2Config, OpenAIGPTConfig and GPTJConfig: further names of keys.
ALIASES = {
    "max_position_embeddings": "n_positions",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
}

# transformers' GPT2Config: what a key means when config.json leaves it out. For the special tokens it takes
# 50256, whatever the vocabulary is; here a config.json that states none has none.
DEFAULTS = {
    "n_inner": None,
    "layer_norm_epsilon": 1e-5,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "activation_function": "gelu_new",
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def weights(config: ModelConfig) -> tuple[Rule, ...]:
    """The weight table; an untied head is one row more."""
    return WEIGHTS if config.tie_embeddings else WEIGHTS + UNTIED_HEAD


def read_particulars(values: dict) -> dict:
    """The choices of config.json that are not one field each."""
    if values.get("add_cross_attention"):
        raise InputError(
            "add_cross_attention is true: expected a decoder without an encoder, which tfgpt builds"
        )
    scaled = values["scale_attn_weights"]
    if not isinstance(scaled, bool):
        raise InputError(f"scale_attn_weights is {scaled!r}: expected true or false")
    scale = None if scaled else 1.0
    return {"activation": read_activation(values, "activation_function"), "score_scale": scale}


def write_particulars(config: ModelConfig) -> dict:
    """The inverse of `read_particulars`, with what other tools look for."""
    if (
        config.head_dim * config.num_heads != config.hidden_dim
        or config.num_key_value_heads != config.num_heads
    ):
        raise InputError(
            f"{config.num_heads} heads of {config.head_dim} over hidden_dim {config.hidden_dim} with "
            f"{config.num_key_value_heads} key heads: GPT-2's format has no place for them, use another "
            "family"
        )
    return {**stated_choices(config), "n_ctx": config.context_length, "use_cache": True}


def stated_choices(config: ModelConfig) -> dict:
    """The keys that `read_particulars` reads, and the rates of dropout that follow another."""
    _, attention, embedding = config.rates
    return {
        "activation_function": write_activation(config),
        "scale_attn_weights": config.score_scale is None,
        "attn_pdrop": attention,
        "embd_pdrop": embedding,
    }


FAMILY = Family(
    name="gpt2",
    title="GPT-2",
    paper="https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf",
    reference="https://github.com/openai/gpt-2/blob/master/src/model.py",
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    defaults=DEFAULTS,
    fields=FIELDS,
    required=("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"),
    sizes=SIZES,
    published=PUBLISHED,
    weights=weights,
    prefix="transformer.",
    aliases=ALIASES,
    # Causal masks that old versions of transformers saved as buffers, and a tied head saved a second time.
    ignored=(r"h\.\d+\.attn\.(bias|masked_bias)", r"lm_head\.weight"),
    read_particulars=read_particulars,
    write_particulars=write_particulars,
)
