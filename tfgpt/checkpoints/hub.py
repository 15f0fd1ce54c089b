"""From what a user calls a model to a directory on disk. Loads no TensorFlow."""

import os
import re
from pathlib import Path

from tfgpt.errors import InputError

# Nothing else is fetched: no pickle, no code.
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja")


def resolve(source: str | os.PathLike, revision: str | None = None) -> Path:
    """A local directory for `source`: itself when it is one, otherwise the hub's repository of that id.

    Args:
        source: a directory, or an id such as `openai-community/gpt2`.
        revision: branch, tag or commit of the repository.

    Raises:
        InputError: there is neither such a directory nor such a repository, or it cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise InputError(f"{path} is a file: expected a model directory (config.json, model.safetensors)")
    name = os.fspath(source)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith((".", "/")):
        raise InputError(
            f"{path} does not exist: expected a model directory or a hub id such as openai-community/gpt2"
        )
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
    except RepositoryNotFoundError:
        raise InputError(
            f"{name!r} is neither a directory nor a repository of the hub: check the name, or log in if it "
            "is private"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{name!r} is not a directory, and the hub could not be reached ({type(error).__name__}): check "
            "the path or the connection"
        ) from None
