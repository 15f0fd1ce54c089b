"""`tfgpt convert`: a published checkpoint becomes a model directory of tfgpt."""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

from tfgpt.commands.output import print_json
from tfgpt.errors import InputError
from tfgpt.files import read_json, write_json
from tfgpt.paths import user_path
from tfgpt.replacing import check_replaceable, replacing_directory

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="Hugging Face id or directory, or OpenAI's original files of GPT-1 or GPT-2",
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR")
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: as they are)")
    parser.add_argument("--max-shard-size", type=int, default=5_000_000_000, metavar="BYTES")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")


def run(arguments) -> int:
    """Reads and checks the whole model, tensor by tensor, so that what is written is known to load."""
    from tfgpt.checkpoints.directory import read_model_config
    from tfgpt.checkpoints.hub import resolve
    from tfgpt.checkpoints.sources import format_of
    from tfgpt.checkpoints.writers import check_shard_size

    check_shard_size(arguments.max_shard_size)
    target = user_path(arguments.model_dir)
    named = user_path(arguments.source)
    if os.path.isdir(named) and target.is_dir() and target.samefile(named):
        raise InputError(f"{target} is the source itself: name another directory")
    check_replaceable(target, owned=())  # before a download
    source = resolve(arguments.source, arguments.revision, check=read_model_config)
    found = format_of(source)
    with replacing_directory(target, owned=()) as temporary:
        facts = _write(source, found, temporary, arguments)
        _copy_tokenizer(source, found, temporary)
    if arguments.json:
        print_json({"source": str(source), "format": found.title, "model_dir": str(target), **facts})
    else:
        print(f"{facts['parameters']:,} parameters of family {facts['family']} in {target}", file=sys.stderr)
    return 0


def _write(source: Path, found, directory: Path, arguments) -> dict:
    """Weights and configs; memory holds two tensors. Returns facts for the report."""
    from tfgpt.checkpoints.directory import GENERATION_FILE, write_model_config
    from tfgpt.checkpoints.translate import published_tensors
    from tfgpt.checkpoints.writers import write_tensors

    family, config = found.read_config(source)
    weights = _weights(found.reader(source), family, config, arguments.dtype)
    dtype = Counter(weight.dtype for weight in weights.values()).most_common(1)[0][0]
    write_model_config(config, directory, dtype)
    if os.path.lexists(source / GENERATION_FILE):
        read_json(source / GENERATION_FILE)  # a broken one is refused
        shutil.copyfile(source / GENERATION_FILE, directory / GENERATION_FILE)
    published = published_tensors(weights, family, config)
    write_tensors(_counted(published), directory, arguments.max_shard_size)
    parameters = sum(weight.num_elements for weight in weights.values())
    return {"family": config.family, "parameters": parameters, "dtype": dtype}


def _weights(reader, family, config, dtype: str | None) -> dict:
    """The weights of the model that the config makes, as they are read from the source."""
    from tfgpt.checkpoints.arrays import cast
    from tfgpt.checkpoints.translate import Weight, match_names, read_weights, stored_dtype
    from tfgpt.commands.backend import load_keras

    rows = match_names(reader, family, config)  # before Keras is loaded, and a model of that size is made
    load_keras()
    from tfgpt.models.causal_lm import CausalLM

    shapes = CausalLM.weight_shapes(config)
    dtypes = {rule.target: dtype or stored_dtype(reader, names) for rule, names in rows}

    def reading(name, read):
        return lambda: cast(name, read(), dtypes[name])

    return {
        name: Weight(shapes[name], dtypes[name], reading(name, read))
        for name, read in read_weights(reader, family, config, shapes)
    }


def _counted(published: list) -> list:
    """The same tensors, with a bar on a terminal while they are read."""
    from tqdm import tqdm

    bar = tqdm(total=len(published), unit="tensor", disable=not sys.stderr.isatty(), leave=False)

    def counting(read):
        def counted():
            tensors = read()
            bar.update()
            if bar.n == bar.total:
                bar.close()
            return tensors

        return counted

    return [each._replace(read=counting(each.read)) for each in published]


def _copy_tokenizer(source: Path, found, directory: Path) -> None:
    from tfgpt.checkpoints.directory import copy_tokenizer

    copy_tokenizer(source, directory, found.tokenizer)
    if found.tokenizer_class and (directory / "vocab.json").exists():
        write_json(directory / "tokenizer_config.json", {"tokenizer_class": found.tokenizer_class})
