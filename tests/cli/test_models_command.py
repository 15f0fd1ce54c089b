"""`tfgpt models` lists every published size with its count, and loads no TensorFlow."""

import json

import pytest

from tfgpt.cli import main
from tfgpt.families.registry import FAMILIES


def test_the_table_has_a_row_for_each_size(capsys):
    assert main(["models"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["family", "size", "parameters", "context", "licence", "weights"]
    assert len(lines) == sum(len(family.sizes) for family in FAMILIES.values())
    [row] = [line for line in lines if line.split()[:2] == ["gpt2", "124m"]]
    assert row.split()[2:] == ["124,439,808", "1,024", "MIT", "openai-community/gpt2"]
    [row] = [line for line in lines if line.split()[:2] == ["gpt3", "175b"]]
    assert row.endswith("none published")


def test_one_family_as_json(capsys):
    assert main(["models", "gptj", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["size"], row["parameters"], row["weights"]) == ("6b", 6_050_882_784, "EleutherAI/gpt-j-6b")


def test_an_unknown_family_is_one_line(capsys):
    assert main(["models", "gpt_j"]) == 2
    assert capsys.readouterr().err == "tfgpt: there is no family 'gpt_j'; did you mean 'gptj'?\n"


def test_it_is_light(python):
    code = """
import sys
from tfgpt.cli import main
assert main(["models", "--json"]) == 0
assert not {"tensorflow", "keras"} & set(sys.modules)
"""
    python(code)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_are_told_for_sizes_that_exist(name):
    assert set(FAMILIES[name].published) <= set(FAMILIES[name].sizes)
