"""Names in recipes become devices, policies and XLA by written rules."""

import json
import os

import pytest

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.models.causal_lm import CausalLM
from tfgpt.training.strategy import (
    is_chief,
    make_strategy,
    resolve_jit,
    resolve_precision,
    tune_cpu_compiler,
)
from tfgpt.training.throughput import flops_per_token, flops_utilisation


def test_one_device_on_this_machine():
    for name in ("auto", "one_device"):
        assert make_strategy(name).num_replicas_in_sync == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("miror", "did you mean 'mirrored'"), ("mirrored", "several GPUs"), ("multi_worker", "TF_CONFIG")],
)
def test_strategies_that_cannot_be(name, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(InputError, match=message):
        make_strategy(name)


def test_who_writes(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert is_chief()
    for index, chief in ((0, True), (1, False)):
        task = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(task))
        assert is_chief() is chief
    # Where a process is the chief by name, the first worker writes nothing.
    cluster = {"chief": ["a:1"], "worker": ["b:1"]}
    for kind, chief in (("chief", True), ("worker", False)):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": 0}}))
        assert is_chief() is chief
    monkeypatch.setenv("TF_CONFIG", "{broken")
    with pytest.raises(InputError, match="JSON"):
        is_chief()


def test_rules_on_cpu():
    assert resolve_precision("auto") == "float32"
    assert resolve_precision("mixed_bfloat16") == "mixed_bfloat16"
    with pytest.raises(InputError, match="found precision"):
        resolve_precision("fp32")
    assert resolve_jit("auto", "float32", 4e9) is True
    assert resolve_jit("auto", "float32", 8e11) is False
    assert resolve_jit("auto", "mixed_bfloat16", 4e9) is False
    assert (resolve_jit(True, "mixed_bfloat16", 8e11), resolve_jit(False, "float32", 1.0)) == (True, False)


def test_passes_that_somebody_chose_stay_chosen(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    tune_cpu_compiler()
    assert os.environ["XLA_FLAGS"] == "--xla_disable_hlo_passes=tree_reduction_rewriter"
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    tune_cpu_compiler()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x --xla_disable_hlo_passes=tree_reduction_rewriter"
    monkeypatch.setenv("XLA_FLAGS", "--xla_disable_hlo_passes=other")
    tune_cpu_compiler()
    assert os.environ["XLA_FLAGS"] == "--xla_disable_hlo_passes=other"


def test_flops_of_gpt2_124m():
    config = ModelConfig(50257, 1024, num_layers=12, num_heads=12, hidden_dim=768)
    # 124,439,808 parameters, 1,024 * 768 of them positions; 12 * 12 * 12 * 64 * 1024 for attention.
    assert flops_per_token(config, 124_439_808) == 6 * 123_653_376 + 113_246_208
    untied = config.replace(tie_embeddings=False)
    assert flops_per_token(untied, 124_439_808 + 50257 * 768) == flops_per_token(config, 124_439_808)
    assert flops_utilisation(1000.0, 8e8, 1.6e12) == 0.5


def test_parameters_are_counted_as_published():
    config = ModelConfig(50257, 1024, num_layers=1, num_heads=12, hidden_dim=768)
    # One block of GPT-2 has 7,087,872 parameters (124,439,808 = 12 blocks, tables and the final norm).
    assert CausalLM(config).count_params() == 7_087_872 + 50257 * 768 + 1024 * 768 + 2 * 768
