"""The whole training job: recipe in, model directory out. Started again, it goes on where it was.

OUTPUT/
  model/         the best model so far, with its tokenizer: what the job is for
  checkpoints/   what resuming needs
  tensorboard/   event files
  data/          token shards, unless data.cache_directory says otherwise
  recipe.json    every setting, defaults included
  metrics.json   written when the job is done
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfgpt.data.dataset import evaluation_dataset, training_dataset
from tfgpt.data.prepare import PreparedCorpus
from tfgpt.errors import InputError
from tfgpt.evaluation.perplexity import Score
from tfgpt.files import read_json, write_json
from tfgpt.models.causal_lm import CausalLM
from tfgpt.recipes import Recipe, recipe_values
from tfgpt.training.callbacks import (
    AverageForValidation,
    EarlyStopping,
    KeepBest,
    SaveCheckpoints,
    StepCallback,
    StopOnNotANumber,
)
from tfgpt.training.job import Job, make_job
from tfgpt.training.looks import attention_look, sample_look
from tfgpt.training.output import check_output
from tfgpt.training.parts import OneTraining, parts_of
from tfgpt.training.progress import Progress
from tfgpt.training.resume import Checkpoints, build_for_training, restore
from tfgpt.training.strategy import is_chief
from tfgpt.training.tensorboard import TensorBoard, TensorBoardOptions

# Settings that may change between a job and its resumption: they do not change what is learned so far.
_FREE = {
    "output": None,
    "tensorboard": None,
    "training": (
        "steps",
        "jit",
        "strategy",
        "micro_batches",
        "steps_per_execution",
        "validate_every",
        "checkpoint_every",
        "keep_last",
        "early_stopping_patience",
    ),
    "data": ("corpus", "cache_directory"),
}


@dataclass(frozen=True)
class TrainingResult:
    """What a finished job left.

    Attributes:
        model_directory: the best model and its tokenizer, in the Hugging Face format.
        corpus: tokenizer and shards.
        metrics: the content of metrics.json: validation loss, perplexity, bits per byte, how long it took.
    """

    model_directory: Path
    corpus: PreparedCorpus
    metrics: dict

    def load_model(self) -> CausalLM:
        """The best model, read from its directory."""
        return CausalLM.from_pretrained(self.model_directory)


def train(
    recipe: Recipe,
    callbacks: Sequence = (),
    *,
    say: Callable[[str], None] | None = None,
    show_progress: bool = True,
    corpus_progress: Callable | None = None,
) -> TrainingResult:
    """Trains as the recipe says, resuming by itself.

    Args:
        recipe: from `load_recipe` or `make_recipe`.
        callbacks: further Keras callbacks. Those with `state()` and `load_state()` are resumed as well, by
            the name of their class.
        say: takes lines for the user; prints to standard error by default.
        show_progress: whether to show a bar or lines of progress.
        corpus_progress: `progress(stage, done, total)` of `tfgpt.data.prepare.prepare_corpus`.

    Raises:
        InputError: a recipe that does not fit text, machine, itself, or the checkpoints in its output, or an
            output that holds something else.
    """
    say = say or (lambda text: print(text, file=sys.stderr, flush=True))
    check_output(recipe.output)
    job = make_job(recipe, corpus_progress)
    say(job.describe())
    build_for_training(job.model)
    checkpoints = Checkpoints(job.output / "checkpoints", recipe.training.keep_last, warn=say)
    stateful = _stateful(job, callbacks)
    start_step = _resume(job, checkpoints, stateful)
    if start_step:
        say(f"going on at step {start_step} of {recipe.training.steps}")
    elif is_chief():
        write_json(job.output / "recipe.json", recipe_values(recipe))
    best, stopping = stateful["best"], stateful.get("early_stopping")
    start = time.perf_counter()
    if start_step < recipe.training.steps and not (stopping and stopping.stopped):
        saving = _saving(job, checkpoints, stateful)
        _fit(job, start_step, [*_callbacks(job, stateful, show_progress), *callbacks, *saving])
        metrics = _metrics(job, best, time.perf_counter() - start, start_step)
    else:
        metrics = _metrics_kept(_metrics(job, best, 0.0, start_step), job.output / "metrics.json")
    if is_chief():
        write_json(job.output / "metrics.json", metrics)
    return TrainingResult(job.output / "model", job.corpus, metrics)


def _fit(job: Job, start_step: int, callbacks: list) -> None:
    model, training, length = job.model, job.recipe.training, job.recipe.data.context_length
    sizes = {"context_length": length, "batch_size": training.batch_size}
    validation = evaluation_dataset(job.corpus.validation, **sizes)
    for callback in callbacks:
        if isinstance(callback, StepCallback):
            callback.start_step = start_step
    together = OneTraining(callbacks, add_history=True, model=model)
    for part in parts_of(start_step, training.steps, training.validate_every, training.checkpoint_every):
        _set_steps_per_execution(model, part.steps_per_execution(training.steps_per_execution))
        together.set_part(part)
        model.fit(
            training_dataset(job.corpus.train, **sizes, seed=training.seed, start_step=part.start_step),
            validation_data=validation,
            validation_freq=part.epochs_that_end_at(training.validate_every, training.steps),
            steps_per_epoch=part.steps,
            initial_epoch=part.first_epoch,
            epochs=part.first_epoch + part.epochs,
            callbacks=together,
            shuffle=False,
            verbose=0,
        )
        if model.stop_training:
            break
    together.finish()


def _set_steps_per_execution(model: CausalLM, steps: int) -> None:
    """Traces (and compiles) the steps anew where the number differs; the steps themselves stay the same."""
    if model.steps_per_execution != steps:
        model.steps_per_execution = steps
        model.train_function = model.test_function = None


def _resume(job: Job, checkpoints: Checkpoints, stateful: dict) -> int:
    """Restores the newest whole checkpoint; returns the steps that it has behind it."""
    checkpoint = checkpoints.latest()
    if checkpoint is None:
        return 0
    _check_same_job(job, checkpoint.state.get("fingerprint") or {}, checkpoints.directory)
    restore(job.model, checkpoint.arrays)
    for name, callback in stateful.items():
        if name in checkpoint.state:
            callback.load_state(checkpoint.state[name])
    return checkpoint.step


def _fingerprint(job: Job) -> dict:
    """What must be the same for a checkpoint to fit: settings, and the text by its tokens' fingerprints."""
    values = recipe_values(job.recipe)
    for section, names in _FREE.items():
        if names is None:
            values.pop(section)
        else:
            values[section] = {key: value for key, value in values[section].items() if key not in names}
    values["precision"] = job.precision
    values["text"] = job.corpus.train.tokenizer_fingerprint
    values["tokens"] = job.corpus.train.num_tokens
    return values


def _check_same_job(job: Job, then: dict, directory: Path) -> None:
    now = _fingerprint(job)
    for section in sorted(now.keys() | then.keys()):
        new, old = now.get(section), then.get(section)
        if new == old:
            continue
        key = section
        if isinstance(new, dict) and isinstance(old, dict):
            name = next(name for name in sorted(new.keys() | old.keys()) if new.get(name) != old.get(name))
            key, new, old = f"{section}.{name}", new.get(name), old.get(name)
        raise InputError(
            f"found {key} {new!r}, expected {old!r} as in the job that {directory} goes on with; change it "
            "back, or train into another output"
        )


def _stateful(job: Job, callbacks: Sequence) -> dict:
    def save(model):
        directory = job.output / "model"
        # In this order weights never stand without their tokenizer: saving them keeps what is there.
        job.corpus.tokenizer.save_pretrained(directory, model.config.context_length)
        model.save_pretrained(directory)

    named = {"best": KeepBest(save if is_chief() else lambda model: None)}
    if job.recipe.training.early_stopping_patience:
        named["early_stopping"] = EarlyStopping(job.recipe.training.early_stopping_patience)
    for callback in callbacks:
        if hasattr(callback, "state") and hasattr(callback, "load_state"):
            named[type(callback).__name__] = callback
    return named


def _callbacks(job: Job, stateful: dict, show_progress: bool) -> list:
    recipe = job.recipe
    result = [StopOnNotANumber(), AverageForValidation(), stateful["best"]]
    if "early_stopping" in stateful:
        result.append(stateful["early_stopping"])
    if not is_chief():
        return result
    if show_progress:
        every = max(1, recipe.training.steps // 40)
        result.append(Progress(recipe.training.steps, job.tokens_per_step, every))
    if recipe.tensorboard.enabled:
        board = recipe.tensorboard
        options = TensorBoardOptions(
            tokens_per_step=job.tokens_per_step,
            write_every=board.write_every,
            flops_of_token=job.flops_of_token,
            peak_flops=board.peak_flops,
            sample=sample_look(
                job.corpus.tokenizer,
                board.sample_prompt,
                board.sample_tokens,
                job.model.config.context_length,
            ),
            attention=attention_look(job.corpus, recipe.data.context_length, board.attention_layers),
            attention_heads=board.attention_heads,
            attention_layers=board.attention_layers,
            hyperparameters=recipe_values(recipe),
        )
        result.append(TensorBoard(job.output / "tensorboard", options))
    return result


def _saving(job: Job, checkpoints: Checkpoints, stateful: dict) -> list:
    if not is_chief():
        return []
    training = job.recipe.training
    every, steps = training.checkpoint_every, training.steps
    return [SaveCheckpoints(checkpoints, every, steps, stateful, _fingerprint(job))]


def _metrics_kept(metrics: dict, path: Path) -> dict:
    """Those of the run that did the training, where this one found nothing left to do."""
    earlier = read_json(path) if path.exists() else {}
    same = all(earlier.get(name) == metrics[name] for name in ("steps", "best_step", "validation"))
    return earlier if same else metrics


def _metrics(job: Job, best: KeepBest, seconds: float, start_step: int) -> dict:
    validation = job.corpus.validation
    score = Score(best.best["loss"], validation.num_tokens, validation.num_bytes)
    return {
        "validation": score.as_dict(),
        "best_step": best.best["step"],
        "steps": job.recipe.training.steps,
        "started_at_step": start_step,
        "seconds": round(seconds, 1),
        "parameters": job.model.count_params(),
        "training_tokens": job.corpus.train.num_tokens,
        "flops_per_token": job.flops_of_token,
        "precision": job.precision,
        "jit": job.jit,
        "devices": job.strategy.num_replicas_in_sync,
    }
