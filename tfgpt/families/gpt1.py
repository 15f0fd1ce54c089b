"""GPT-1: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".

Reference: https://github.com/openai/finetune-transformer-lm (train.py) and transformers' modeling_openai.py;
config.json as published at https://huggingface.co/openai-community/openai-gpt.

A block normalises after each residual sum (post-norm), so there is no norm at the end; `afn: "gelu"` is the
tanh approximation there. The MLP is always four times as wide as the model.
"""

from tfgpt.checkpoints.rules import Rule
from tfgpt.config import ModelConfig
from tfgpt.families import gpt2
from tfgpt.families.activations import read_activation, write_activation
from tfgpt.families.family import Family, Published

SIZES = {
    "117m": {
        "vocabulary_size": 40478,
        "context_length": 512,
        "num_layers": 12,
        "num_heads": 12,
        "hidden_dim": 768,
        "residual": "post_norm",
        "dropout": 0.1,
    },
}

WEIGHTS = (
    Rule("tokens_embed.weight", "decoder/token_embedding/table"),
    Rule("positions_embed.weight", "decoder/position_embedding/table"),
    *(rule for rule in gpt2.WEIGHTS if "{layer}" in rule.target),
)

# modeling_openai.py, ACT_FNS: the functions that `afn` may name, without silu.
ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu"}

PUBLISHED = {"117m": Published("openai-community/openai-gpt", "MIT")}

FIELDS = {
    "vocab_size": "vocabulary_size",
    "n_positions": "context_length",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "hidden_dim",
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

# transformers' OpenAIGPTConfig.
DEFAULTS = {
    "afn": "gelu",
    "layer_norm_epsilon": 1e-5,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}


def weights(config: ModelConfig) -> tuple[Rule, ...]:
    """The weight table; an untied head is one row more."""
    return WEIGHTS if config.tie_embeddings else WEIGHTS + gpt2.UNTIED_HEAD


def read_particulars(values: dict) -> dict:
    """The choices of config.json that are not one field each, and those that all GPT-1 share."""
    return {"activation": read_activation(values, "afn", ACTIVATIONS), "residual": "post_norm"}


def write_particulars(config: ModelConfig) -> dict:
    """The inverse of `read_particulars`."""
    _, attention, embedding = config.rates
    return {
        "afn": write_activation(config, ACTIVATIONS),
        "attn_pdrop": attention,
        "embd_pdrop": embedding,
        "n_ctx": config.context_length,
    }


FAMILY = Family(
    name="gpt1",
    title="GPT-1",
    paper="https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf",
    reference="https://github.com/openai/finetune-transformer-lm/blob/master/train.py",
    model_type="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    defaults=DEFAULTS,
    fields=FIELDS,
    required=("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"),
    sizes=SIZES,
    published=PUBLISHED,
    weights=weights,
    prefix="transformer.",
    aliases=gpt2.ALIASES,
    # And the numbers 0, 1, 2, ... that transformers saved as a buffer before 4.31.
    ignored=(*gpt2.FAMILY.ignored, r"position_ids"),
    read_particulars=read_particulars,
    write_particulars=write_particulars,
    # transformers.js has no GPT-1, optimum no configuration for it.
    served_as=gpt2.FAMILY.model_type,
)
