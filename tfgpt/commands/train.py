"""`tfgpt train`: a recipe becomes a model directory."""

import contextlib
import os

from tfgpt.commands.output import print_json
from tfgpt.locks import working_in


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("recipe", metavar="CONFIG.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        dest="overrides",
        help="overrides one setting of the recipe; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")


def run(arguments) -> int:
    """Trains, or goes on training, and prints how well the best model predicts."""
    from tfgpt.recipes import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    from tfgpt.commands.backend import load_keras

    load_keras("training")
    from tfgpt.training.fit import train
    from tfgpt.training.strategy import tune_cpu_compiler

    tune_cpu_compiler()
    # The workers of a multi-worker job share one output on purpose.
    alone = contextlib.nullcontext() if "TF_CONFIG" in os.environ else working_in(recipe.output)
    with alone:
        result = train(recipe)
    if arguments.json:
        print_json({"model": str(result.model_directory), **result.metrics})
    else:
        validation = result.metrics["validation"]
        print(f"validation {spell_score(validation)}, at step {result.metrics['best_step']}")
        print(f"model      {result.model_directory}")
    return 0


def spell_score(score: dict) -> str:
    """A `Score` as a person reads it."""
    text = f"loss {score['loss']:.4f} nats a token, perplexity {score['perplexity']:.2f}"
    if score["bits_per_byte"] is not None:
        text += f", {score['bits_per_byte']:.3f} bits per byte"
    return text
