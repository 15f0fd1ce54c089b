"""ModelConfig: every wrong value is one line that names the field; the rest round-trips."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgpt import InputError, ModelConfig
from tfgpt.config import Activation, Attention, Norm, Positions, Residual

SMALL = {"vocabulary_size": 11, "context_length": 8, "num_layers": 3, "num_heads": 4, "hidden_dim": 16}


def test_defaults_are_gpt2s():
    config = ModelConfig(**SMALL)
    assert (config.intermediate_dim, config.head_dim, config.num_key_value_heads) == (64, 4, 4)
    assert (config.norm, config.residual) == (Norm.LAYER, Residual.PRE_NORM)
    assert (config.positions, config.activation) == (Positions.LEARNED, Activation.GELU_TANH)
    assert config.rates == (0.0, 0.0, 0.0) and config.tie_embeddings


def test_facts_of_a_layer():
    config = ModelConfig(
        **SMALL, attention_pattern=["global", "local"], window=5, scale_by_inverse_layer=True
    )
    assert [config.attention_of(i) for i in range(3)] == [Attention.GLOBAL, Attention.LOCAL, Attention.GLOBAL]
    assert [config.window_of(i) for i in range(3)] == [None, 5, None]
    assert [config.score_scale_of(i) for i in range(3)] == [0.5, 0.25, pytest.approx(1 / 6)]
    assert ModelConfig(**SMALL, score_scale=1.0).score_scale_of(2) == 1.0


def test_dropout_rates_follow_each_other():
    config = ModelConfig(**SMALL, dropout=0.1, attention_dropout=0.0)
    assert config.rates == (0.1, 0.0, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": "3"}, "num_layers is '3': expected a whole number"),
        ({"num_layers": 3.0}, "num_layers is 3.0: expected a whole number"),
        ({"num_layers": True}, "num_layers is True: expected a whole number"),
        ({"num_layers": None}, "num_layers is None"),
        ({"num_layers": 0}, "num_layers is 0: expected at least 1"),
        ({"vocabulary_size": -5}, "vocabulary_size is -5"),
        ({"intermediate_dim": 0}, "intermediate_dim is 0"),
        ({"intermediate_dim": 2.5}, "intermediate_dim is 2.5: expected a whole number or null"),
        ({"head_dim": -1}, "head_dim is -1"),
        ({"num_heads": 3}, "hidden_dim 16 is not a multiple of num_heads 3"),
        ({"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"attention_dropout": math.nan}, "attention_dropout is nan"),
        ({"dropout": True}, "dropout is True: expected a number"),
        ({"tie_embeddings": 1}, "tie_embeddings is 1: expected true or false"),
        ({"norm": "batch"}, "norm is 'batch'; expected one of: layer, rms"),
        ({"activation": "gelu_tahn"}, "did you mean 'gelu_tanh'"),
        ({"residual": ["pre_norm"]}, "residual is"),
        ({"norm_epsilon": 0}, "norm_epsilon is 0.0"),
        ({"norm_epsilon": math.inf}, "norm_epsilon is inf"),
        ({"initializer_range": -1}, "initializer_range is -1.0"),
        ({"score_scale": math.nan}, "score_scale is nan"),
        ({"rotary_base": 0}, "rotary_base is 0.0"),
        ({"rotary_dim": 3}, "rotary_dim is 3: expected an even number up to head_dim 4"),
        ({"rotary_dim": 6}, "rotary_dim is 6"),
        ({"positions": "rotary_split", "head_dim": 5}, "rotary_dim is 5"),
        ({"attention_pattern": ["local"]}, "window is None"),
        ({"attention_pattern": ["local"], "window": 0}, "window is 0"),
        ({"attention_pattern": "local"}, "attention_pattern is 'local': expected a list"),
        ({"attention_pattern": []}, "attention_pattern is empty"),
        ({"num_layers": 0, "attention_pattern": []}, "num_layers is 0"),
        ({"attention_pattern": ["locale"]}, "did you mean 'local'"),
        ({"eos_token_id": 11}, "eos_token_id is 11: expected an id from 0 to 10"),
        ({"pad_token_id": -1}, "pad_token_id is -1"),
        ({"family": 2}, "family is 2: expected a string"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        ModelConfig(**{**SMALL, **changes})
    assert "\n" not in str(caught.value)


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(InputError, match="no field 'num_layer'; did you mean 'num_layers'"):
        ModelConfig.from_dict({**SMALL, "num_layer": 3})
    with pytest.raises(InputError, match="needs 'hidden_dim'"):
        ModelConfig.from_dict({name: value for name, value in SMALL.items() if name != "hidden_dim"})


def test_it_is_frozen_and_compares_by_value():
    config = ModelConfig(**SMALL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_layers = 4
    assert config == ModelConfig(**SMALL) != config.replace(num_layers=4)
    assert hash(config) == hash(ModelConfig(**SMALL))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "norm": st.sampled_from(Norm),
            "residual": st.sampled_from(Residual),
            "positions": st.sampled_from(Positions),
            "activation": st.sampled_from(Activation),
            "attention_pattern": st.lists(st.sampled_from(Attention), min_size=1, max_size=4),
            "num_key_value_heads": st.sampled_from([1, 2, 4]),
            "dropout": st.floats(0, 0.99),
            "score_scale": st.none() | st.floats(-10, 10),
            "eos_token_id": st.none() | st.integers(0, 10),
            "tie_embeddings": st.booleans(),
        },
    )
)
def test_json_round_trip(changes):
    config = ModelConfig(**SMALL, window=3, **changes)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(st.sampled_from([field.name for field in dataclasses.fields(ModelConfig)]), st.from_type(object))
def test_any_value_makes_a_config_or_an_input_error(name, value):
    try:
        ModelConfig(**{**SMALL, name: value})
    except InputError as error:
        assert "\n" not in str(error)
