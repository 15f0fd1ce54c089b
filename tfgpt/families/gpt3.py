"""GPT-3: Brown et al. 2020, "Language Models are Few-Shot Learners" (https://arxiv.org/abs/2005.14165).

Sizes: table 2.1 of the paper, as printed: heads times their width is not always the hidden width (XL has 24
heads of 128 over 2048; 13B has 40 heads of 128 over 5140), so the head width is stated. Attention: section
2.1, "alternating dense and locally banded sparse attention patterns in the layers of the transformer, similar
to the Sparse Transformer". The paper gives no width of the band; GPT-Neo, the public replication, uses 256
(https://github.com/EleutherAI/gpt-neo, configs), and so do we.

No weights were published, and no other library defines this architecture: config.json carries the model_type
"gpt3" with GPT-2's keys and tensor names, and only tfgpt reads it.
"""

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.families import gpt2
from tfgpt.families.family import Family

_COMMON = {
    "vocabulary_size": 50257,
    "context_length": 2048,
    "attention_pattern": ["global", "local"],
    "window": 256,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}

SIZES = {
    "125m": {**_COMMON, "num_layers": 12, "hidden_dim": 768, "num_heads": 12, "head_dim": 64},
    "350m": {**_COMMON, "num_layers": 24, "hidden_dim": 1024, "num_heads": 16, "head_dim": 64},
    "760m": {**_COMMON, "num_layers": 24, "hidden_dim": 1536, "num_heads": 16, "head_dim": 96},
    "1.3b": {**_COMMON, "num_layers": 24, "hidden_dim": 2048, "num_heads": 24, "head_dim": 128},
    "2.7b": {**_COMMON, "num_layers": 32, "hidden_dim": 2560, "num_heads": 32, "head_dim": 80},
    "6.7b": {**_COMMON, "num_layers": 32, "hidden_dim": 4096, "num_heads": 32, "head_dim": 128},
    "13b": {**_COMMON, "num_layers": 40, "hidden_dim": 5140, "num_heads": 40, "head_dim": 128},
    "175b": {**_COMMON, "num_layers": 96, "hidden_dim": 12288, "num_heads": 96, "head_dim": 128},
}

FIELDS = {
    **gpt2.FIELDS,
    "head_dim": "head_dim",
    "attention_pattern": "attention_pattern",
    "window_size": "window",
}


def write_particulars(config: ModelConfig) -> dict:
    """As GPT-2's, with the pattern of attention."""
    if config.num_key_value_heads != config.num_heads:
        raise InputError(
            f"{config.num_heads} heads share {config.num_key_value_heads} key heads: GPT-3 has one each, "
            "use another family"
        )
    pattern = [kind.value for kind in config.attention_pattern]
    return {**gpt2.stated_choices(config), "attention_pattern": pattern}


FAMILY = Family(
    name="gpt3",
    title="GPT-3",
    paper="https://arxiv.org/abs/2005.14165",
    reference="https://arxiv.org/abs/2005.14165 section 2.1",
    model_type="gpt3",
    architecture="GPT3LMHeadModel",
    defaults={
        **gpt2.DEFAULTS,
        "head_dim": None,
        "attention_pattern": ["global", "local"],
        "window_size": 256,
    },
    fields=FIELDS,
    required=gpt2.FAMILY.required,
    sizes=SIZES,
    published={},
    weights=gpt2.weights,
    prefix=gpt2.FAMILY.prefix,
    ignored=gpt2.FAMILY.ignored,
    read_particulars=gpt2.read_particulars,
    write_particulars=write_particulars,
    served_as=gpt2.FAMILY.model_type,
)
