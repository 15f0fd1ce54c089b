"""The parts of a training job, made from a recipe: corpus, model, optimizer, datasets."""

from dataclasses import dataclass
from pathlib import Path

import keras

from tfgpt.config import ModelConfig
from tfgpt.data.corpus import CorpusOptions
from tfgpt.data.prepare import PreparedCorpus, prepare_corpus
from tfgpt.errors import InputError
from tfgpt.families.registry import family
from tfgpt.models.causal_lm import CausalLM
from tfgpt.recipes import Recipe
from tfgpt.tokenizers.loading import load_tokenizer
from tfgpt.training.optimizer import AdamW
from tfgpt.training.schedules import WarmupConstant, WarmupCosine, WarmupStableDecay
from tfgpt.training.strategy import make_strategy, resolve_jit, resolve_precision
from tfgpt.training.throughput import flops_per_token

_LEARNED = ("byte_pair", "character")


@dataclass(frozen=True)
class Job:
    """A model compiled as the recipe says, with what was decided on the way."""

    recipe: Recipe
    corpus: PreparedCorpus
    model: CausalLM
    strategy: object
    precision: str
    jit: bool
    flops_of_token: float

    @property
    def output(self) -> Path:
        """Where everything goes."""
        return Path(self.recipe.output)

    @property
    def tokens_per_step(self) -> int:
        """Of the global batch."""
        return self.recipe.training.batch_size * self.recipe.data.context_length

    def describe(self) -> str:
        """One line: model, data, devices."""
        count = self.model.count_params()
        return (
            f"{count:,} parameters, {self.corpus.train.num_tokens:,} tokens to train on, "
            f"{self.corpus.validation.num_tokens:,} to validate, vocabulary of "
            f"{self.corpus.tokenizer.vocabulary_size:,}; {self.precision}, "
            f"{'XLA' if self.jit else 'no XLA'}, {self.strategy.num_replicas_in_sync} device(s)"
        )


def make_corpus(recipe: Recipe, progress=None) -> PreparedCorpus:
    """The recipe's corpus as token shards: made now, or found as an earlier run left it."""
    data = recipe.data
    options = CorpusOptions(
        tokenizer_kind=data.tokenizer if data.tokenizer in _LEARNED else "byte_pair",
        vocabulary_size=data.vocabulary_size,
        validation_fraction=data.validation_fraction,
        max_bytes=data.max_bytes,
    )
    tokenizer = None if data.tokenizer in _LEARNED else load_tokenizer(data.tokenizer)
    directory = Path(data.cache_directory or Path(recipe.output) / "data")
    return prepare_corpus(data.corpus, directory, options, tokenizer, progress)


def make_config(recipe: Recipe, tokenizer) -> ModelConfig:
    """The model's configuration: the stated size and fields; vocabulary and context from the data.

    Raises:
        InputError: neither a size nor enough fields, or a model too small for the data.
    """
    section, fields = recipe.model, recipe.model.fields
    if section.size is None:
        missing = [name for name in ("num_layers", "num_heads", "hidden_dim") if name not in fields]
        if missing:
            raise InputError(
                f"found neither model.size nor model.{missing[0]}, expected a published size or num_layers, "
                "num_heads and hidden_dim; state them in the recipe"
            )
    derived = {"vocabulary_size": tokenizer.vocabulary_size, "context_length": recipe.data.context_length}
    end = tokenizer.end_of_text_id
    derived.update(bos_token_id=end, eos_token_id=end, pad_token_id=None)
    fields = {**derived, **fields}
    if section.size is None:
        config = ModelConfig.from_dict({"family": family(section.family).name, **fields})
    else:
        config = family(section.family).config_of(section.size, **fields)
    for name, least in (
        ("vocabulary_size", tokenizer.vocabulary_size),
        ("context_length", recipe.data.context_length),
    ):
        if getattr(config, name) < least:
            raise InputError(
                f"found model.{name} {getattr(config, name)}, expected at least the {least} of the data; "
                "remove it from the recipe to take the data's"
            )
    return config


def make_schedule(recipe: Recipe):
    """The learning rate over the steps."""
    schedule, steps, warmup_steps = recipe.schedule, recipe.training.steps, recipe.warmup_steps
    peak = recipe.optimizer.learning_rate
    final = peak * schedule.final_fraction
    if schedule.kind == "constant":
        return WarmupConstant(peak, warmup_steps)
    if schedule.kind == "cosine":
        return WarmupCosine(peak, steps, warmup_steps, final)
    decay_steps = min(max(1, round(steps * schedule.decay_fraction)), steps - warmup_steps)
    return WarmupStableDecay(peak, steps, decay_steps, warmup_steps, final)


def make_optimizer(recipe: Recipe) -> AdamW:
    """AdamW as the recipe says; for mixed_float16 `compile` wraps it into dynamic loss scaling."""
    settings, momentum = recipe.optimizer, recipe.training.ema_momentum
    average = {} if momentum is None else {"use_ema": True, "ema_momentum": momentum}
    return AdamW(
        make_schedule(recipe),
        weight_decay=settings.weight_decay,
        beta_1=settings.beta_1,
        beta_2=settings.beta_2,
        epsilon=settings.epsilon,
        global_clipnorm=settings.clip_norm,
        decay_embeddings=settings.decay_embeddings,
        no_decay=settings.no_decay,
        **average,
    )


def make_job(recipe: Recipe, progress=None) -> Job:
    """Everything that `fit` needs; deterministic given the recipe's seed.

    Raises:
        InputError: wherever the recipe does not fit the text, the machine or itself.
    """
    training = recipe.training
    strategy = make_strategy(training.strategy)
    slices = strategy.num_replicas_in_sync * training.micro_batches
    if training.batch_size % slices:
        raise InputError(
            f"found training.batch_size {training.batch_size} for {strategy.num_replicas_in_sync} devices "
            f"and {training.micro_batches} micro-batches, expected a multiple of {slices}"
        )
    precision = resolve_precision(training.precision)
    corpus = make_corpus(recipe, progress)
    config = make_config(recipe, corpus.tokenizer)
    keras.utils.set_random_seed(training.seed)
    with strategy.scope():
        model = CausalLM(config, dtype=precision)
        flops = flops_per_token(config, model.count_params())
        per_replica = flops * training.batch_size * recipe.data.context_length / strategy.num_replicas_in_sync
        jit = resolve_jit(training.jit, precision, per_replica)
        model.compile(
            make_optimizer(recipe),
            micro_batches=training.micro_batches,
            steps_per_execution=training.steps_per_execution,
            jit_compile=jit,
        )
    return Job(recipe, corpus, model, strategy, precision, jit, flops)
