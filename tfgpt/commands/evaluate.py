"""`tfgpt evaluate`: loss, perplexity and bits per byte, every token predicted once."""

import tempfile
from pathlib import Path

from tfgpt.commands.output import print_json
from tfgpt.commands.train import spell_score
from tfgpt.errors import InputError
from tfgpt.paths import user_path


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("source", metavar="CONFIG.yaml|MODEL_DIR")
    parser.add_argument(
        "--corpus", metavar="PATH", help="text to predict: a file or directory (MODEL_DIR only)"
    )
    parser.add_argument("--context-length", type=int, metavar="N", help="of a window; by default the model's")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="how far windows advance; by default their length"
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--json", action="store_true", help="print the score as JSON")


def run(arguments) -> int:
    """Evaluates a recipe's model on its validation text, or any model on a text."""
    arguments.source = user_path(arguments.source)
    if arguments.source.suffix in (".yaml", ".yml"):
        if arguments.corpus:
            raise InputError(
                "--corpus goes with a model directory: a recipe has a validation text of its own"
            )
        score = _of_recipe(arguments)
    else:
        if not arguments.corpus:
            raise InputError("found no --corpus, expected a text to evaluate on; name a file or a directory")
        score = _of_directory(arguments)
    if arguments.json:
        print_json(score.as_dict())
    else:
        print(spell_score(score.as_dict()))
    return 0


def _of_recipe(arguments):
    from tfgpt.data.prepare import PreparedCorpus
    from tfgpt.recipes import load_recipe

    recipe = load_recipe(arguments.source)
    output = Path(recipe.output)
    if not (output / "model").is_dir():
        raise InputError(f"{output} has no model yet: run `tfgpt train {arguments.source}` first")
    corpus = PreparedCorpus.open(recipe.data.cache_directory or output / "data")
    return _score(output / "model", corpus.validation, arguments)


def _of_directory(arguments):
    from tfgpt.checkpoints.directory import read_model_config
    from tfgpt.data.cleaning import CleaningOptions, CleaningReport, clean_documents
    from tfgpt.data.packing import write_shards
    from tfgpt.data.text import read_documents
    from tfgpt.tokenizers.loading import check_vocabulary, load_tokenizer

    tokenizer = load_tokenizer(arguments.source)
    check_vocabulary(tokenizer, read_model_config(arguments.source)[1].vocabulary_size, arguments.source)
    report = CleaningReport()
    documents = list(clean_documents(read_documents(arguments.corpus), CleaningOptions(), report))
    if not documents:
        raise InputError(f"found no text in {arguments.corpus}, expected some to evaluate on")
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(documents, tokenizer, Path(folder) / "text", inputs_fingerprint="evaluation")
        return _score(Path(arguments.source), shards, arguments)


def _score(model_dir: Path, shards, arguments):
    from tfgpt.commands.backend import load_keras

    load_keras("evaluation")
    from tfgpt.data.dataset import evaluation_dataset
    from tfgpt.evaluation.perplexity import evaluate
    from tfgpt.models.causal_lm import CausalLM

    model = CausalLM.from_pretrained(model_dir)
    length = arguments.context_length or model.config.context_length
    if length > model.config.context_length:
        raise InputError(
            f"--context-length {length} is more than the model's context of {model.config.context_length}"
        )
    dataset = evaluation_dataset(shards, length, arguments.batch_size, arguments.stride)
    return evaluate(model, dataset, shards.num_bytes)
