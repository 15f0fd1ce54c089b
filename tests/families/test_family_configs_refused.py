"""Values of config.json that a family cannot mean: each is one line, whatever the value; and old buffers."""

import re

import pytest

from tfgpt import InputError
from tfgpt.families.registry import family

NEO = {
    "vocab_size": 13,
    "max_position_embeddings": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_size": 8,
    "attention_types": [[["global", "local"], 1]],
}
NEOX = {
    "vocab_size": 13,
    "max_position_embeddings": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "intermediate_size": 8,
    "rotary_pct": 0.5,
}
GPTJ = {"vocab_size": 13, "n_positions": 8, "n_layer": 1, "n_head": 2, "n_embd": 8, "rotary_dim": 4}
GPT1 = {"vocab_size": 13, "n_positions": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
OSS = {
    "vocab_size": 13,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_size": 8,
    "num_local_experts": 2,
    "num_experts_per_tok": 2,
}
SOUND = {"gpt1": GPT1, "gpt2": GPT1, "gpt_neo": NEO, "gptj": GPTJ, "gpt_neox": NEOX, "gpt_oss": OSS}


@pytest.mark.parametrize("name", SOUND)
def test_the_rest_is_sound(name):
    assert family(name).read_config(SOUND[name]).num_layers >= 1


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("gpt1", {"afn": "silu"}, "afn is 'silu'"),
        ("gpt1", {"afn": "gelu_new"}, "afn is 'gelu_new'"),  # transformers' GPT-1 has no such name either
        ("gpt_neo", {"attention_types": [[["global"], 2.0]]}, "attention_types"),
        ("gpt_neo", {"attention_types": [[["globl"], 2]]}, "did you mean 'global'"),
        ("gpt_neo", {"attention_types": 3}, "attention_types"),
        ("gpt_neo", {"attention_types": None}, "describes 24 layers"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, "describes 3 layers, but num_layers is 2"),
        (
            "gpt_neo",
            {"attention_types": [[["global"], 10**9]], "num_layers": 10**9},
            "num_layers is 1000000000: expected at most",
        ),
        ("gpt_neox", {"intermediate_size": 10**400}, "intermediate_dim is beyond 2147483647"),
        ("gpt_neox", {"layer_norm_eps": 10**400}, "norm_epsilon is beyond 2147483647"),
        (
            "gpt_neox",
            {"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
            "rope_type is 'yarn'",  # as transformers, which takes rope_scaling where both stand
        ),
        ("gpt_neo", {"attention_types": [[["global"], 10**30]]}, "but num_layers is 2"),
        ("gptj", {"rotary_dim": None}, "rotary_dim is null"),
        ("gptj", {"rotary_dim": 6}, "rotary_dim is 6"),
        ("gptj", {"tie_word_embeddings": True}, "tie_word_embeddings is true"),
        ("gpt_neox", {"rotary_pct": float("nan")}, "rotary_pct is nan"),
        ("gpt_neox", {"rotary_pct": float("inf")}, "rotary_pct is inf"),
        ("gpt_neox", {"rotary_pct": True}, "rotary_pct is True"),
        ("gpt_neox", {"rotary_pct": 0}, "rotary_pct is 0"),
        ("gpt_neox", {"hidden_size": 10**400}, "hidden_size"),
        ("gpt_neox", {"num_attention_heads": 0}, "num_attention_heads"),
        ("gpt_neox", {"rope_parameters": [1]}, "rope_type is"),
        ("gpt_neox", {"head_dim": 2}, "head_dim is 2: expected 4"),
        ("gpt_neo", {"attention_layers": ["global", "global"]}, "attention_layers has 'global' for layer 1"),
        ("gpt_neo", {"attention_layers": ["global"]}, "attention_layers is 1 layers"),
        ("gpt_neo", {"attention_layers": 3}, "attention_layers is 3"),
        ("gpt_neo", {"num_attention_heads": 4}, "num_heads 2 and num_attention_heads 4"),
        ("gpt_neo", {"num_hidden_layers": 4}, "num_layers 2 and num_hidden_layers 4"),
        ("gpt1", {"num_attention_heads": 1}, "n_head 2 and num_attention_heads 1"),
        ("gpt1", {"num_attention_heads": 2.0}, "n_head 2 and num_attention_heads 2.0"),
        ("gpt1", {"num_attention_heads": [2]}, "n_head 2 and num_attention_heads [2]"),
        ("gptj", {"num_hidden_layers": 2}, "n_layer 1 and num_hidden_layers 2"),
        ("gptj", {"max_position_embeddings": 9}, "n_positions 8 and max_position_embeddings 9"),
        ("gptj", {"hidden_size": 16}, "n_embd 8 and hidden_size 16"),
        ("gpt2", {"hidden_size": 16}, "n_embd 8 and hidden_size 16"),
        ("gpt_oss", {"num_experts": 3}, "num_local_experts 2 and num_experts 3"),
        ("gpt_oss", {"experts_per_token": 1}, "num_experts_per_tok is 2"),
        ("gpt_oss", {"layer_types": [["full_attention"]]}, "layer_types has ['full_attention']"),
        ("gpt_oss", {"layer_types": [{}]}, "layer_types has {}"),
        ("gpt_neox", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ("gpt_neox", {"use_parallel_residual": "no"}, "use_parallel_residual is 'no'"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_value_that_means_nothing_is_one_line(name, changes, word):
    with pytest.raises(InputError, match=re.escape(word)) as caught:
        family(name).read_config({**SOUND[name], **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "alias", "key"),
    [
        ("gpt1", "num_attention_heads", "n_head"),
        ("gpt2", "hidden_size", "n_embd"),
        ("gptj", "num_hidden_layers", "n_layer"),
        ("gpt_neo", "num_attention_heads", "num_heads"),
        ("gpt_oss", "num_experts", "num_local_experts"),
    ],
)
def test_the_other_name_of_a_key_counts(name, alias, key):
    sound = SOUND[name]
    renamed = {each: value for each, value in sound.items() if each != key} | {alias: sound[key]}
    expected = family(name).read_config(sound)
    assert family(name).read_config(renamed) == expected
    assert family(name).read_config({**sound, alias: sound[key]}) == expected
    assert family(name).read_config({**sound, alias: None}) == expected
    assert family(name).read_config({**sound, key: None, alias: sound[key]}) == expected


def test_one_spelling_of_experts_per_token_is_not_the_other():
    """transformers reads num_experts_per_tok alone, and takes 4 where it is not stated."""
    stated = {key: value for key, value in OSS.items() if key != "num_experts_per_tok"}
    with pytest.raises(InputError, match="experts_per_token is 2: expected one number"):
        family("gpt_oss").read_config({**stated, "experts_per_token": 2})
    sound = {**stated, "num_local_experts": 4, "experts_per_token": 4}
    assert family("gpt_oss").read_config(sound).num_experts_per_token == 4
    assert family("gpt_oss").read_config({**OSS, "experts_per_token": None}).num_experts_per_token == 2


def test_layers_of_gpt_neo_are_stated_twice():
    for stated in (["global", "local"], None):
        assert family("gpt_neo").read_config({**NEO, "attention_layers": stated}) == family(
            "gpt_neo"
        ).read_config(NEO)


@pytest.mark.parametrize(("stated", "truncate"), [({}, True), ({"truncate": None}, False)])
def test_truncate_that_is_null_is_false(stated, truncate):
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8, **stated}
    assert family("gpt_oss").read_config({**OSS, "rope_parameters": yarn}).yarn.truncate is truncate


def test_no_attention_types_are_the_default_of_24_layers():
    config = family("gpt_neo").read_config({**NEO, "num_layers": 24, "attention_types": None})
    assert [config.attention_of(layer).value for layer in (0, 1, 23)] == ["global", "local", "local"]


@pytest.mark.parametrize(
    ("name", "buffer"),
    [
        ("gpt1", "h.0.attn.bias"),
        ("gpt1", "position_ids"),
        ("gpt_neo", "h.0.attn.attention.bias"),
        ("gpt_neo", "h.0.attn.attention.masked_bias"),
        ("gptj", "h.0.attn.masked_bias"),
        ("gpt_neox", "layers.0.attention.rotary_emb.inv_freq"),
        ("gpt_neox", "layers.0.attention.masked_bias"),
    ],
)
def test_buffers_of_old_checkpoints_are_ignored_and_their_neighbours_are_not(name, buffer):
    ignored = family(name).ignored
    assert any(re.fullmatch(pattern, buffer) for pattern in ignored)
    assert not any(re.fullmatch(pattern, f"{buffer}.more") for pattern in ignored)
