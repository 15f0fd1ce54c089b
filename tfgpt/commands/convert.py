"""`tfgpt convert`: a published checkpoint becomes a model directory of tfgpt."""

import sys
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.files import replacing_directory


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("source", metavar="SOURCE", help="Hugging Face id or directory")
    parser.add_argument("model_dir", metavar="MODEL_DIR")
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")
    parser.add_argument("--max-shard-size", type=int, default=5_000_000_000, metavar="BYTES")


def run(arguments) -> int:
    """Reads the whole model, so that what is written is known to load."""
    from tfgpt.checkpoints.directory import copy_tokenizer
    from tfgpt.checkpoints.hub import resolve

    source = resolve(arguments.source, arguments.revision)
    target = Path(arguments.model_dir).expanduser()
    if target.exists() and target.resolve() == source.resolve():
        raise InputError(f"{target} is the source itself: name another directory")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} exists and is not empty: name an empty or a new directory")
    from tfgpt.commands.backend import load_keras

    load_keras()
    from tfgpt.models.causal_lm import CausalLM

    model = CausalLM.from_pretrained(source)
    with replacing_directory(target) as temporary:
        model.save_pretrained(temporary, max_shard_size=arguments.max_shard_size)
        copy_tokenizer(source, temporary)
    print(f"{model.count_params():,} parameters of family {model.config.family} in {target}", file=sys.stderr)
    return 0
