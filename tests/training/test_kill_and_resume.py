"""A job killed with SIGKILL and started again ends bitwise where an uninterrupted one ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tfgpt.recipes import load_recipe
from tfgpt.training.fit import train

RECIPE = """
model: {{num_layers: 2, num_heads: 2, hidden_dim: 32, dropout: 0.2}}
data: {{corpus: {corpus}, cache_directory: {cache}, tokenizer: character, context_length: 16}}
optimizer: {{learning_rate: 1e-2}}
schedule: {{warmup_steps: 4}}
training:
  steps: 24
  batch_size: 4
  micro_batches: 2
  jit: {jit}
  precision: float32
  strategy: one_device
  validate_every: 8
  checkpoint_every: 4
  ema_momentum: 0.9
  early_stopping_patience: 3
tensorboard: {{sample_tokens: 0}}
"""


def run_until_killed(recipe, output, step):
    child = Path(__file__).with_name("killed_child.py")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(child), str(recipe), str(output), str(step)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("jit", ["false", "true"])
def test_bitwise_as_if_never_killed(tmp_path, jit):
    rng = np.random.default_rng(0)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(rng.choice(list("abcdefgh \n"), 4000)))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(corpus=corpus, cache=tmp_path / "cache", jit=jit))

    # Step 14 lies behind the checkpoint at 12 and, with validations every 8, inside of the second interval.
    run_until_killed(path, tmp_path / "killed", 14)
    kept = sorted(entry.name for entry in (tmp_path / "killed/checkpoints").iterdir())
    assert kept == ["step-00000008", "step-00000012"]
    lines = []
    resumed = train(
        load_recipe(path, [f"output={tmp_path / 'killed'}"]), say=lines.append, show_progress=False
    )
    assert any("going on at step 12 of 24" in line for line in lines)
    whole = train(load_recipe(path, [f"output={tmp_path / 'whole'}"]), say=lines.append, show_progress=False)

    for name in ("checkpoints/step-00000024/variables.safetensors", "model/model.safetensors"):
        one, two = load_file(tmp_path / "killed" / name), load_file(tmp_path / "whole" / name)
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    states = [
        json.loads((tmp_path / run / "checkpoints/step-00000024/state.json").read_text())["state"]
        for run in ("killed", "whole")
    ]
    assert states[0] == states[1]
    assert resumed.metrics["validation"] == whole.metrics["validation"]
    assert (resumed.metrics["started_at_step"], whole.metrics["started_at_step"]) == (12, 0)
