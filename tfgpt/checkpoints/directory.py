"""A model directory: config.json, weights, generation_config.json. Loads no TensorFlow."""

import shutil
from pathlib import Path

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.families.family import Family
from tfgpt.families.registry import family, family_of_model_type
from tfgpt.files import read_json, write_json
from tfgpt.paths import check_plain_file
from tfgpt.tokenizers.file_names import CHAT_TEMPLATE_FOLDER, TOKENIZER_FILES

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"


def read_model_config(directory: Path) -> tuple[Family, ModelConfig]:
    """The family and the config that a directory's config.json states."""
    path = Path(directory) / CONFIG_FILE
    values = read_json(path)
    if "model_type" not in values:
        raise InputError(f"{path} has no 'model_type': expected one such as 'gpt2'")
    _check_quantization(path, values.get("quantization_config"))
    return config_of_values(values, path)


def config_of_values(values: dict, path: Path) -> tuple[Family, ModelConfig]:
    """The family and the config of what `path` states, in the keys of config.json; errors name `path`."""
    try:
        found = family_of_model_type(values["model_type"])
        return found, found.read_config(values)
    except InputError as error:
        raise InputError(
            f"{path}: {str(error).removeprefix('config.json ').removeprefix('config.json: ')}"
        ) from None


def _check_quantization(path: Path, stated) -> None:
    """Refuses weights that no table reads; MXFP4 is for the family's own table."""
    method = stated.get("quant_method", "unknown") if isinstance(stated, dict) else stated
    if method not in (None, "mxfp4"):
        raise InputError(
            f"{path}: the weights are quantized ({method!r}): expected float32, bfloat16 or float16; take "
            "the unquantized repository, or save it dequantized with transformers"
        )


def write_model_config(config: ModelConfig, directory: Path, dtype: str = "float32") -> None:
    """Writes config.json and generation_config.json as transformers reads them."""
    values = family(config.family).write_config(config)
    write_json(Path(directory) / CONFIG_FILE, {**values, "dtype": dtype})
    write_generation_config(config, directory)


def write_generation_config(config: ModelConfig, directory: Path) -> None:
    """Writes generation_config.json with the special ids, where transformers and others look for them."""
    tokens = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    known = {name: token for name, token in tokens.items() if token is not None}
    write_json(Path(directory) / GENERATION_FILE, known)


def copy_tokenizer(source: Path, target: Path, renamed: dict[str, str] | None = None) -> None:
    """Copies the tokenizer files that a directory has, further chat templates included.

    `renamed` lists the files of another format: their names there and in a model directory.
    """
    for theirs, ours in (renamed or {name: name for name in TOKENIZER_FILES}).items():
        path = Path(source) / theirs
        check_plain_file(path, "one of a tokenizer")
        if path.exists():
            shutil.copyfile(path, Path(target) / ours)
    for path in sorted((Path(source) / CHAT_TEMPLATE_FOLDER).glob("*.jinja")):
        check_plain_file(path, "a chat template")
        (Path(target) / CHAT_TEMPLATE_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(path, Path(target) / CHAT_TEMPLATE_FOLDER / path.name)
