"""Validation loss after nanoGPT's 2,000 steps on tinyshakespeare: tfgpt and PyTorch's transformers.

Goal 1 of the project's numbers: at most 1.88, the validation loss that nanoGPT's README states.

Command:  python benchmarks/peers.py make torch
          python benchmarks/learning.py [--output benchmarks/results/NAME.json]
Setting:  benchmarks/shakespeare.py (4 layers, 4 heads, 128 wide, context 64, batch 12, no dropout, AdamW).
          "tfgpt" is `CausalLM.fit` with Keras's AdamW; it and transformers see the same batches in the same
          order, from random weights of their own. "tfgpt recipe" is what the command `tfgpt train` makes of
          configs/pretrain/tinyshakespeare_char.yaml, with its own batches and optimizer. Every repetition has
          other weights and other batches. "whole" is the loss over every character of the validation part,
          each predicted once, in windows side by side; "sampled" is nanoGPT's own estimate, the mean over 20
          random batches of 12, the same ones every time. The goal is held against the larger of the two.
Hardware: any CPU, fp32. Time: about 4 minutes for a repetition on 2 cores.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
import shakespeare

PACKAGES = ("tfgpt", "tensorflow", "keras", "torch", "transformers")
SIDES = ("tfgpt", "tfgpt recipe", "transformers")
RECIPE = Path(__file__).resolve().parents[1] / "configs/pretrain/tinyshakespeare_char.yaml"
STEPS_PER_EXECUTION = 10


def prepare_tfgpt(num_steps: int):
    """`CausalLM.fit` with XLA."""
    corpus = shakespeare.load()

    def train(seed: int) -> shakespeare.Predict:
        model = shakespeare.tfgpt_model(len(corpus.vocabulary), seed)
        shakespeare.compile_keras(model, STEPS_PER_EXECUTION)
        model.fit(shakespeare.keras_dataset(corpus, num_steps, seed), epochs=1, verbose=0)
        return lambda token_ids: model.predict_on_batch(token_ids)

    return _measurement(corpus, train)


def prepare_recipe(num_steps: int):
    """What `tfgpt train configs/pretrain/tinyshakespeare_char.yaml` does, with its own data and optimizer."""
    from tfgpt.recipes import load_recipe
    from tfgpt.training.fit import train as train_recipe
    from tfgpt.training.strategy import tune_cpu_compiler

    tune_cpu_compiler()  # as the command does
    corpus = shakespeare.load()

    def train(seed: int) -> shakespeare.Predict:
        with tempfile.TemporaryDirectory(prefix="tfgpt-learning-") as output:
            overrides = {
                "data.corpus": shakespeare.corpus_path(),
                "output": output,
                "training.seed": seed,
                "training.steps": num_steps,
                "tensorboard.enabled": "false",
            }
            recipe = load_recipe(RECIPE, [f"{key}={value}" for key, value in overrides.items()])
            result = train_recipe(recipe, show_progress=False)
            model, tokenizer = result.load_model(), result.corpus.tokenizer
        # Its tokenizer may number the characters in another way.
        ids = np.array([tokenizer.encode(character)[0] for character in corpus.vocabulary], np.int32)
        return lambda token_ids: np.asarray(model.predict_on_batch(ids[token_ids]))[..., ids]

    return _measurement(corpus, train)


def prepare_transformers(num_steps: int):
    """Hugging Face's GPT-2 in nanoGPT's loop, compiled for speed alone."""
    import torch

    torch.set_num_threads(measure.THREADS)
    corpus = shakespeare.load()

    def train(seed: int) -> shakespeare.Predict:
        token_ids, labels = (
            torch.from_numpy(each).long() for each in shakespeare.batches(corpus.train, num_steps, seed)
        )
        model, optimizer = shakespeare.transformers_model(len(corpus.vocabulary), seed)
        compiled = torch.compile(model)
        for step in range(num_steps):
            shakespeare.transformers_step(compiled, optimizer, token_ids[step], labels[step], step)

        def predict(token_ids: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return model(torch.from_numpy(token_ids).long()).logits.numpy()

        return predict

    return _measurement(corpus, train)


def _measurement(corpus: shakespeare.Corpus, train):
    """Trains anew with the next seed at every call: {"value": whole loss, "sampled": nanoGPT's estimate}."""
    seeds = iter(range(1, 1_000_000))

    def measurement() -> dict:
        predict = train(next(seeds))
        return {
            "value": shakespeare.whole_validation_loss(predict, corpus.validation),
            "sampled": shakespeare.sampled_validation_loss(predict, corpus.validation),
        }

    return measurement


def serve_side(side: str, num_steps: int) -> int:
    preparation = {
        "tfgpt": prepare_tfgpt,
        "tfgpt recipe": prepare_recipe,
        "transformers": prepare_transformers,
    }[side]
    return measure.serve(lambda: preparation(num_steps), PACKAGES)


def command_of(side: str, num_steps: int) -> list[str]:
    import peers

    python = peers.python("torch") if side == "transformers" else sys.executable
    return [str(python), __file__, "--side", side, "--steps", str(num_steps)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="measure only these")
    parser.add_argument(
        "--steps",
        type=int,
        default=shakespeare.NUM_STEPS,
        help="fewer only to try, such as 250 (default: %(default)s)",
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        return serve_side(options.side, options.steps)

    commands = {side: command_of(side, options.steps) for side in options.sides}
    answers, facts = measure.side_by_side(commands, options.repetitions)
    rows = {}
    for name, found in answers.items():
        rows[f"{name}, whole"] = [each["value"] for each in found]
        rows[f"{name}, sampled"] = [each["sampled"] for each in found]
    targets = []
    for ours in ("tfgpt", "tfgpt recipe"):
        if ours in answers:
            worst = max(statistics.median(rows[f"{ours}, {way}"]) for way in ("whole", "sampled"))
            text = f"validation loss of {ours}"
            targets.append(measure.Target(text, worst, shakespeare.PUBLISHED_LOSS, at_least=False))
    if {"tfgpt", "transformers"} <= set(answers):
        found = measure.ratio(rows["tfgpt, whole"], rows["transformers, whole"])
        targets.append(measure.Target("tfgpt / transformers, whole", found, 1.01, at_least=False))
    facts |= {"steps": options.steps, "published": shakespeare.PUBLISHED_LOSS}
    measure.report("learning", "nats/character", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
