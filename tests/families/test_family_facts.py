"""The published sizes and the two directions of config.json, without allocating a weight."""

import math

import numpy as np
import pytest

import tfgpt
from tfgpt import InputError, ModelConfig
from tfgpt.families import counting
from tfgpt.families.registry import FAMILIES, family, family_of_model_type
from tfgpt.models.deferred import deferred_variables

# Parameters of the published files, without the causal masks and frequencies that some hold as buffers: the
# "model size" that the hub computes from the safetensors headers, or the paper's own table where it is exact.
COUNTS = {
    # https://huggingface.co/openai-community/openai-gpt
    "gpt1": {"117m": 116_534_784},
    "gpt2": {
        # https://huggingface.co/openai-community/gpt2 (-medium, -large, -xl)
        "124m": 124_439_808,
        "355m": 354_823_168,
        "774m": 774_030_080,
        "1558m": 1_557_611_200,
        # GPT-2's shapes: https://huggingface.co/microsoft/DialoGPT-small (-medium, -large)
        "dialogpt-small": 124_439_808,
        "dialogpt-medium": 354_823_168,
        "dialogpt-large": 774_030_080,
        # Dey et al. 2023 round (111M, 256M, 590M, 1.3B, 2.7B, 6.7B, 13B): these follow from table 1's shapes.
        "cerebras-111m": 111_050_496,
        "cerebras-256m": 255_977_024,
        "cerebras-590m": 590_310_912,
        "cerebras-1.3b": 1_315_723_264,
        "cerebras-2.7b": 2_651_553_280,
        "cerebras-6.7b": 6_658_404_352,
        "cerebras-13b": 12_853_386_240,
    },
    # https://huggingface.co/EleutherAI/gpt-neo-125m (-1.3B, -2.7B); the names round these.
    "gpt_neo": {"125m": 125_198_592, "1.3b": 1_315_575_808, "2.7b": 2_651_307_520},
    # https://huggingface.co/EleutherAI/gpt-j-6b: the tensors of its config.json.
    "gptj": {"6b": 6_050_882_784},
    # arXiv 2508.10925, table 1, prints them in billions: 20.91 and 116.83.
    "gpt_oss": {"20b": 20_914_757_184, "120b": 116_829_156_672},
    "gpt_neox": {
        # https://huggingface.co/EleutherAI/gpt-neox-20b, README: 20,554,567,680
        "20b": 20_554_567_680,
        # https://github.com/EleutherAI/pythia, README, "Params" of 70M and larger
        "pythia-14m": 14_067_712,
        "pythia-31m": 30_494_720,
        "pythia-70m": 70_426_624,
        "pythia-160m": 162_322_944,
        "pythia-410m": 405_334_016,
        "pythia-1b": 1_011_781_632,
        "pythia-1.4b": 1_414_647_808,
        "pythia-2.8b": 2_775_208_960,
        "pythia-6.9b": 6_857_302_016,
        "pythia-12b": 11_846_072_320,
    },
}
# Brown et al. 2020, table 2.1, with its rounding: n_params in units of the last printed digit.
GPT3_COUNTS = {"125m": 125e6, "350m": 356e6, "760m": 760e6, "1.3b": 1.3e9, "2.7b": 2.7e9, "6.7b": 6.7e9,
               "13b": 13e9, "175b": 175e9}  # fmt: skip
# Table 2.1: layers, width, heads, width of a head.
GPT3_TABLE = {
    "125m": (12, 768, 12, 64),
    "350m": (24, 1024, 16, 64),
    "760m": (24, 1536, 16, 96),
    "1.3b": (24, 2048, 24, 128),
    "2.7b": (32, 2560, 32, 80),
    "6.7b": (32, 4096, 32, 128),
    "13b": (40, 5140, 40, 128),
    "175b": (96, 12288, 96, 128),
}
SIZES = [(name, size) for name, each in FAMILIES.items() for size in each.sizes]


def count_parameters(config):
    """Elements of all weights of a model that holds none of them."""
    with deferred_variables():
        model = tfgpt.CausalLM(config)
    assert all(variable._value is None for variable in model.trainable_variables)
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gpt3"])
def test_sizes_have_the_published_counts(name):
    counts = {size: counting.count_parameters(family(name).config_of(size)) for size in family(name).sizes}
    assert counts == COUNTS[name]


@pytest.mark.parametrize("size", GPT3_TABLE)
def test_gpt3_is_table_2_1(size):
    config = family("gpt3").config_of(size)
    assert (config.num_layers, config.hidden_dim, config.num_heads, config.head_dim) == GPT3_TABLE[size]
    assert config.intermediate_dim == 4 * config.hidden_dim and config.context_length == 2048
    kinds = [config.attention_of(layer).value for layer in range(4)]
    assert kinds == ["global", "local", "global", "local"]


@pytest.mark.parametrize("size", GPT3_COUNTS)
def test_gpt3_counts(size):
    # The paper's label of XL does not follow from its own row: 24 heads of 128 over 2048 make 1.52e9.
    tolerance = 0.18 if size == "1.3b" else 0.02
    assert counting.count_parameters(family("gpt3").config_of(size)) == pytest.approx(
        GPT3_COUNTS[size], rel=tolerance
    )


def spelled_out(config):
    """The config with what can be said in two ways said in one."""
    residual, attention, embedding = config.rates
    return config.replace(
        attention_pattern=[config.attention_of(layer) for layer in range(config.num_layers)],
        dropout=residual,
        attention_dropout=attention,
        embedding_dropout=embedding,
    )


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_config_json_round_trips(name, size):
    one = family(name)
    config = one.config_of(size)
    values = one.write_config(config)
    assert family_of_model_type(values["model_type"]) is one
    assert spelled_out(one.read_config(values)) == spelled_out(config)


# The choices that the config.json of each family can state, none of them at its default.
_RATES = {"dropout": 0.1, "attention_dropout": 0.2}
_STATED = {
    "norm_epsilon": 1e-3,
    "activation": "relu",
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
_GPT2 = {
    "intermediate_dim": 50,
    "score_scale": 1.0,
    "scale_by_inverse_layer": True,
    "tie_embeddings": False,
    "embedding_dropout": 0.3,
}
CHOICES = {
    "gpt1": {"residual": "post_norm", "tie_embeddings": False, "embedding_dropout": 0.3},
    "gpt2": _GPT2,
    "gpt3": {**_GPT2, "attention_pattern": ("local", "global", "local"), "window": 7, "head_dim": 12},
    "gpt_neo": {
        "intermediate_dim": 50,
        "score_scale": 1.0,
        "attention_bias": False,
        "attention_pattern": ("local", "global", "local"),
        "window": 7,
        "tie_embeddings": False,
        "embedding_dropout": 0.3,
    },
    "gptj": {
        "intermediate_dim": 50,
        "residual": "parallel_one_norm",
        "positions": "rotary_interleaved",
        "rotary_dim": 6,
        "attention_bias": False,
        "attention_output_bias": False,
        "tie_embeddings": False,
        "head_bias": True,
        "embedding_dropout": 0.3,
    },
    "gpt_neox": {
        "intermediate_dim": 50,
        "residual": "pre_norm",
        "positions": "rotary_split",
        "rotary_dim": 6,
        "rotary_base": 500.0,
        "attention_bias": False,
        "attention_output_bias": False,
        "tie_embeddings": True,
    },
    "gpt_oss": {
        "intermediate_dim": 50,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "norm": "rms",
        "activation": "clamped_swiglu",
        "swiglu_alpha": 1.5,
        "swiglu_limit": 3.0,
        "positions": "rotary_split",
        "rotary_base": 500.0,
        "yarn": {
            "factor": 8.0,
            "original_context": 16,
            "beta_fast": 20.0,
            "beta_slow": 2.0,
            "attention_factor": 1.5,
        },
        "attention_pattern": ("global", "local", "local"),
        "window": 7,
        "attention_sinks": True,
        "attention_bias": False,
        "attention_output_bias": False,
        "num_experts": 6,
        "num_experts_per_token": 3,
        "tie_embeddings": True,
        "dropout": 0.0,
    },
}


def config_with_every_choice(name):
    return ModelConfig(100, 64, 3, 4, 32, family=name, **{**_STATED, **_RATES, **CHOICES[name]})


@pytest.mark.parametrize("name", FAMILIES)
def test_every_choice_of_a_config_json_round_trips(name):
    config = config_with_every_choice(name)
    again = family(name).read_config(family(name).write_config(config))
    assert spelled_out(again) == spelled_out(config)


def test_what_is_not_used_may_be_anything():
    """A band that no layer has, a pattern spelled twice, rotary numbers of a model with learned positions."""
    config = ModelConfig(
        100, 64, 3, 4, 32, window=5, attention_pattern=("global", "global"), rotary_dim=4, rotary_base=7.0
    )
    values = family("gpt2").write_config(config)
    assert family("gpt2").read_config(values).window_of(0) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_of_a_model_has_a_row(name):
    """The table's targets are the model's weights, no more and no fewer."""
    from tfgpt.checkpoints.rules import expand

    published = family(name).config_of(next(iter(family(name).sizes)))
    for config in (config_with_every_choice(name), published):
        with deferred_variables():
            named = tfgpt.CausalLM(config).named_weights()
        rows = expand(family(name).weights(config), config.num_layers)
        assert {row.target for row in rows} == set(named)


@pytest.mark.parametrize("name", FAMILIES)
def test_counts_from_the_config_alone(name):
    """The arithmetic against models that are made, without their weights."""
    smallest = family(name).config_of(next(iter(family(name).sizes)))
    for config in (config_with_every_choice(name), smallest):
        assert counting.count_parameters(config) == count_parameters(config)


@pytest.mark.parametrize("name", FAMILIES)
def test_facts_name_their_sources(name):
    one = family(name)
    assert one.paper.startswith("https://") and one.reference.startswith("https://")


def test_wrong_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match="no family 'gpt22'; did you mean 'gpt2'"):
        family("gpt22")
    with pytest.raises(InputError, match="GPT-2 has no size '125m'; did you mean '124m'"):
        tfgpt.CausalLM.from_family("gpt2", size="125m")
    with pytest.raises(InputError, match="no field 'drop_out'; did you mean 'dropout'"):
        tfgpt.CausalLM.from_family("gpt2", size="124m", drop_out=0.1)


def test_from_family_makes_a_model():
    model = tfgpt.CausalLM.from_family(
        "gpt3", "125m", num_layers=2, hidden_dim=24, head_dim=2, context_length=16
    )
    assert model.config.family == "gpt3" and model(np.array([[1, 2, 3]])).shape == (1, 3, 50257)
