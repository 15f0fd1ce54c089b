"""GenerationOptions: checks, and reading generation_config.json."""

import dataclasses

import pytest

from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 1e-9),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-40),
        ("repetition_penalty", 1e300),
        ("repetition_penalty", float("nan")),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", (1, -1)),
        ("seed", 1.5),
        ("stop", ("a", "")),
        ("stop", (1,)),
        ("stop", 3),
        ("end_of_text_ids", (-1,)),
        ("end_of_text_ids", "x"),
        ("logprobs", 1),
    ],
)
def test_a_wrong_value_is_one_clear_line(name, value):
    with pytest.raises(InputError, match=f"^found {name}=.*, expected ") as caught:
        GenerationOptions(**{name: value})
    assert "\n" not in str(caught.value)


def test_values_are_normalised_and_frozen():
    options = GenerationOptions(stop="\n", seed=[1, 2], end_of_text_ids=5)
    assert (options.stop, options.seed, options.end_of_text_ids) == (("\n",), (1, 2), (5,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 3
    assert hash(options) == hash(dataclasses.replace(options))


def test_seeds_for_rows():
    assert GenerationOptions(seed=4).row_seeds(3) == (4, 4, 4)
    assert GenerationOptions(seed=[4, 5]).row_seeds(2) == (4, 5)
    with pytest.raises(InputError, match="found 2 seeds for 3 prompts"):
        GenerationOptions(seed=[4, 5]).row_seeds(3)


def test_a_generation_config_that_does_not_sample_is_greedy():
    # openai-community/gpt2's own file.
    config = {
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "transformers_version": "4.26.0.dev0",
        "temperature": 0.7,
    }
    assert GenerationOptions.from_generation_config(config) == GenerationOptions(end_of_text_ids=(50256,))


def test_a_generation_config_that_samples():
    config = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 40,
        "top_p": None,
        "eos_token_id": [1, 2],
        "max_new_tokens": 9,
        "stop_strings": "END",
        "num_beams": 1,
    }
    assert GenerationOptions.from_generation_config(config) == GenerationOptions(
        max_new_tokens=9, temperature=0.7, top_k=40, end_of_text_ids=(1, 2), stop=("END",)
    )
    assert GenerationOptions.from_generation_config({"do_sample": True}).temperature == 1.0


@pytest.mark.parametrize("config", [{"max_new_tokens": "many"}, {"do_sample": True, "top_p": 7}, ["list"]])
def test_a_broken_generation_config(config):
    with pytest.raises(InputError, match=r"^found "):
        GenerationOptions.from_generation_config(config)
