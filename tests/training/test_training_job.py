"""The whole job: recipe in, model directory out; started again, changed, stopped early."""

import json
import math
import os

import keras
import numpy as np
import pytest

from tfgpt.data.dataset import evaluation_dataset
from tfgpt.errors import InputError
from tfgpt.evaluation.perplexity import evaluate
from tfgpt.recipes import make_recipe
from tfgpt.tokenizers.loading import load_tokenizer
from tfgpt.training.callbacks import StepCallback
from tfgpt.training.fit import train
from tfgpt.training.job import make_config, make_job, make_optimizer, make_schedule


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    words = np.random.default_rng(0).choice(["to", "be", "or", "not", "that", "is", "the", "question"], 3000)
    path.write_text("\n".join(" ".join(words[i : i + 10]) for i in range(0, 3000, 10)))
    return path


def make(corpus, output, **sections):
    values = {
        "model": {"num_layers": 2, "num_heads": 2, "hidden_dim": 32},
        "data": {
            "corpus": str(corpus),
            "tokenizer": "character",
            "context_length": 16,
            "cache_directory": str(corpus.parent / "cache"),
        },
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"warmup_steps": 2},
        "training": {"steps": 12, "batch_size": 8, "validate_every": 6, "checkpoint_every": 6, "jit": False},
        "tensorboard": {"sample_tokens": 8, "sample_prompt": "to be"},
        "output": str(output),
    }
    for section, changes in sections.items():
        values[section] = {**values[section], **changes}
    return make_recipe(values)


def run(recipe, callbacks=()):
    lines = []
    return train(recipe, callbacks, say=lines.append, show_progress=False), lines


def test_a_job_from_text_to_model(corpus, tmp_path):
    result, lines = run(make(corpus, tmp_path))
    assert "parameters" in lines[0] and len(lines) == 1
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == result.metrics
    assert metrics["best_step"] == 12  # so short a run only improves
    assert json.loads((tmp_path / "recipe.json").read_text())["training"]["steps"] == 12
    assert any(path.name.startswith("events.") for path in (tmp_path / "tensorboard").iterdir())
    # The directory alone gives the reported score.
    tokenizer = load_tokenizer(result.model_directory)
    stated = json.loads((result.model_directory / "tokenizer_config.json").read_text())
    assert stated["model_max_length"] == 16
    assert tokenizer.decode(tokenizer.encode("to be")) == "to be"
    data = evaluation_dataset(result.corpus.validation, context_length=16, batch_size=8)
    score = evaluate(result.load_model(), data, result.corpus.validation.num_bytes)
    reported = metrics["validation"]
    assert score.loss == pytest.approx(reported["loss"], abs=1e-6)
    assert score.bits_per_byte == pytest.approx(reported["bits_per_byte"], abs=1e-6)
    assert reported["perplexity"] < 0.9 * tokenizer.vocabulary_size

    again, lines = run(make(corpus, tmp_path))
    assert "going on at step 12 of 12" in lines[1]
    assert again.metrics["validation"] == reported


def test_the_environment_is_left_as_it_is(corpus, tmp_path):
    """Flags for XLA are set by the commands, which own their process."""
    before = dict(os.environ)
    assert make_job(make(corpus, tmp_path, training={"jit": True})).jit
    assert dict(os.environ) == before


@pytest.mark.slow
def test_going_on_for_longer_and_with_other_settings(corpus, tmp_path):
    run(make(corpus, tmp_path))
    longer, lines = run(make(corpus, tmp_path, training={"steps": 18, "keep_last": 1}))
    assert "going on at step 12 of 18" in lines[1]
    assert longer.metrics["best_step"] == 18
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000018"]
    with pytest.raises(InputError, match=r"optimizer.learning_rate 0.02, expected 0.01"):
        run(make(corpus, tmp_path, optimizer={"learning_rate": 0.02}))
    with pytest.raises(InputError, match=r"model.hidden_dim 16, expected 32"):
        run(make(corpus, tmp_path, model={"hidden_dim": 16}))
    # Other intervals too, which do not fit the step that it goes on from.
    settings = {"steps": 25, "validate_every": 4, "checkpoint_every": 5, "steps_per_execution": 2}
    longest, lines = run(make(corpus, tmp_path, training=settings))
    assert "going on at step 18 of 25" in lines[1]
    assert longest.metrics["steps"] == 25
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000020",
        "step-00000025",
    ]


@pytest.mark.slow
def test_validations_and_checkpoints_at_any_interval(corpus, tmp_path):
    """At their multiples and after the last step, whatever divides what; the weights do not depend on it."""

    class Watch(StepCallback):
        def __init__(self):
            super().__init__()
            self.validated, self.seen, self.epochs, self.begun = [], [], [], 0

        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.begun += 1

        def on_train_end(self, logs=None):
            self.begun += 10

        def on_step_end(self, step, logs):
            self.seen.append(step)

        def on_epoch_end(self, epoch, logs=None):
            self.epochs.append(epoch)
            assert self.step == int(self.model.optimizer.iterations)
            if "val_loss" in logs:
                self.validated.append(self.step)

    weights = []
    for name, settings in (
        ("one", {"validate_every": 250, "checkpoint_every": 250, "steps_per_execution": 1}),
        ("two", {"validate_every": 4, "checkpoint_every": 3, "steps_per_execution": 2, "keep_last": 9}),
    ):
        watch = Watch()
        result, _ = run(make(corpus, tmp_path / name, training={"steps": 11, **settings}), [watch])
        assert watch.begun == 11  # once, and ended once
        assert result.metrics["steps"] == 11
        weights.append(result.load_model().get_weights())
        if name == "one":
            assert (watch.validated, watch.seen, watch.epochs) == ([11], list(range(1, 12)), [0])
        else:
            assert watch.validated == [4, 8, 11]
            assert watch.epochs == list(range(6))  # they end at 3, 4, 6, 8, 9 and 11
    kept = sorted(path.name for path in (tmp_path / "two/checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in (3, 6, 9, 11)]
    assert (tmp_path / "one/checkpoints/step-00000011").is_dir()
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_what_a_finished_job_measured_stays(corpus, tmp_path):
    first, _ = run(make(corpus, tmp_path))
    before = (tmp_path / "metrics.json").read_bytes()
    again, _ = run(make(corpus, tmp_path))
    assert again.metrics == first.metrics and first.metrics["started_at_step"] == 0
    assert (tmp_path / "metrics.json").read_bytes() == before
    longer, _ = run(make(corpus, tmp_path, training={"steps": 18}))
    assert (longer.metrics["started_at_step"], longer.metrics["steps"]) == (12, 18)


def test_a_sample_prompt_that_fills_the_context_is_refused_at_once(corpus, tmp_path):
    with pytest.raises(InputError, match=r"tensorboard.sample_prompt of 16 tokens, expected at most 15"):
        run(make(corpus, tmp_path, tensorboard={"sample_prompt": "to be or not to "}))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_its_steps_only(corpus, tmp_path):
    whole, _ = run(make(corpus, tmp_path))
    file = tmp_path / "checkpoints/step-00000012/variables.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    again, lines = run(make(corpus, tmp_path))
    assert sum("damaged" in line for line in lines) == 1
    assert "going on at step 6 of 12" in lines[2]
    assert again.metrics["validation"] == whole.metrics["validation"]


@pytest.mark.slow
def test_early_stopping_stays_stopped(corpus, tmp_path):
    # A rate too small to change a weight: no validation is better than the first.
    settings = {"steps": 60, "early_stopping_patience": 2}
    recipe = make(corpus, tmp_path, optimizer={"learning_rate": 1e-30}, training=settings)
    first, _ = run(recipe)
    steps = int(sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1].split("-")[1])
    assert steps == 3 * 6
    assert first.metrics["best_step"] == 6
    again, lines = run(recipe)
    assert f"going on at step {steps} of 60" in lines[1]
    assert again.metrics["validation"] == first.metrics["validation"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1] == f"step-{steps:08d}"


@pytest.mark.slow
def test_the_average_is_validated_and_kept(corpus, tmp_path):
    recipe = make(corpus, tmp_path, training={"ema_momentum": 0.5})
    seen = {}

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen["validation"] = logs["val_loss"]
            seen["weights"] = self.model.get_weights()

    result, _ = run(recipe, [Watch()])
    kept = result.load_model()
    assert any(
        abs(one - two).max() > 1e-4 for one, two in zip(kept.get_weights(), seen["weights"], strict=True)
    )
    data = evaluation_dataset(result.corpus.validation, context_length=16, batch_size=8)
    assert evaluate(kept, data).loss == pytest.approx(seen["validation"], abs=1e-6)


@pytest.mark.parametrize("moment", [8, 11])
def test_a_loss_that_is_no_number_ends_the_job_before_its_checkpoint(corpus, tmp_path, moment):
    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # After the last update of an epoch, only validation sees it.
            if int(self.model.optimizer.iterations) == moment + 1:
                self.model.trainable_variables[0].assign(
                    np.full(self.model.trainable_variables[0].shape, math.nan)
                )

    with pytest.raises(FloatingPointError, match="learning"):
        run(make(corpus, tmp_path), [Poison()])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000006"]


class Tokenizer:
    vocabulary_size, end_of_text_id = 50, 7


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "neither model.size nor model.num_layers"),
        ({"size": "125m"}, "did you mean '124m'"),
        ({"family": "gpt5", "size": "124m"}, "no family"),
        ({"size": "124m", "vocabulary_size": 49}, "at least the 50 of the data"),
        ({"size": "124m", "context_length": 8}, "at least the 256 of the data"),
    ],
)
def test_models_that_cannot_be(model, message):
    with pytest.raises(InputError, match=message):
        make_config(make_recipe({"model": model}), Tokenizer)


def test_what_the_recipe_means():
    recipe = make_recipe({"model": {"size": "124m", "dropout": 0.0}})
    config = make_config(recipe, Tokenizer)
    assert (config.num_layers, config.vocabulary_size, config.context_length) == (12, 50, 256)
    assert (config.dropout, config.eos_token_id) == (0.0, 7)
    optimizer = make_optimizer(
        make_recipe({"optimizer": {"clip_norm": None}, "training": {"ema_momentum": 0.9}})
    )
    assert (optimizer.global_clipnorm, optimizer.use_ema, optimizer.beta_2) == (None, True, 0.95)
    for kind, middle in (("cosine", None), ("constant", 6e-4), ("warmup_stable_decay", 6e-4)):
        schedule = make_schedule(make_recipe({"schedule": {"kind": kind, "warmup_steps": 0}}))
        assert float(schedule(0)) == pytest.approx(6e-4)
        assert float(schedule(2000)) == pytest.approx(6e-4 if kind == "constant" else 6e-5)
        assert float(schedule(1000)) == pytest.approx(middle or (6e-4 + 6e-5) / 2)
