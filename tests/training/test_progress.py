"""Progress as plain lines and as a bar."""

import io
import math
import re

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.config import ModelConfig
from tfgpt.models.causal_lm import CausalLM
from tfgpt.training.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fit(stream):
    ids = np.random.default_rng(0).integers(0, 11, (16, 7)).astype("int32")
    data = (
        tf.data.Dataset.from_tensor_slices((ids[:, :-1], ids[:, 1:])).batch(4, drop_remainder=True).repeat()
    )
    model = CausalLM(ModelConfig(11, 6, 2, 2, 32))
    model.compile("sgd")
    progress = Progress(total_steps=12, tokens_per_step=24, every=4, stream=stream)
    options = {"epochs": 2, "steps_per_epoch": 6, "verbose": 0, "shuffle": False}
    return model.fit(data, validation_data=data.take(1), callbacks=[progress], **options).history


def test_plain_lines():
    stream = io.StringIO()
    history = fit(stream)
    lines = stream.getvalue().splitlines()
    shape = r"step +(\d+)/12  loss \d\.\d{4}  [\d,]+ tokens/s  \d+:\d\d left"
    steps = [int(match[1]) for line in lines if (match := re.fullmatch(shape, line))]
    assert steps == [4, 8, 12]
    first, last = history["val_loss"]
    assert lines[1] == f"step 6: validation loss {first:.4f}, perplexity {math.exp(first):.2f}"
    assert lines[-1] == f"step 12: validation loss {last:.4f}, perplexity {math.exp(last):.2f}"
    assert len(lines) == 5


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    fit(stream)
    text = stream.getvalue()
    assert "12/12" in text and "validation loss" in text and "tokens/s" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (75, "1:15"), (3723, "1:02:03"), (math.nan, "?"), (math.inf, "?")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
