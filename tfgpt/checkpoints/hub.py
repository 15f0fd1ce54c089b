"""From what a user calls a model to a directory on disk. Loads no TensorFlow."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.paths import user_path

# Nothing else is fetched: no pickle, no code, nothing of folders, which hold other forms of the model.
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja")
FOLDERS = ("*/*",)
# Weights that can run code when they are read, or that other frameworks keep.
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")


def resolve(
    source: str | os.PathLike,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    local_files_only: bool = False,
    check: Callable[[Path], object] | None = None,
) -> Path:
    """A local directory for `source`: itself when it is one, otherwise the hub's repository of that id.

    huggingface_hub keeps what it fetched in its cache (HF_HOME), goes on with a download that broke off, and
    shows its progress on a terminal. HF_HUB_OFFLINE=1 and `local_files_only` take what the cache has.

    Args:
        source: a directory, or an id such as `openai-community/gpt2`.
        revision: branch, tag or commit of the repository.
        token: of the hub; `None` takes HF_TOKEN or the one of `hf auth login`.
        local_files_only: ask no server.
        check: called with a directory that has the config.json, before the weights are fetched; what it
            raises ends the download.

    Raises:
        InputError: `source` is no name, there is neither such a directory nor such a repository, it has no
            safetensors, or it cannot be reached.
    """
    path = user_path(source)
    if os.path.isdir(path):  # unlike Path's, these say no to a name that is too long
        if revision is not None:
            raise InputError(
                f"{path} is a directory, which has no revision {revision!r}: leave the revision out, or give "
                "the id of a hub repository"
            )
        return path
    if os.path.isfile(path):
        raise InputError(f"{path} is a file: expected a model directory (config.json, model.safetensors)")
    name = os.fspath(source)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith((".", "/")):
        raise InputError(
            f"{path} does not exist: expected a model directory or a hub id such as openai-community/gpt2"
        )
    return _download(name, {"revision": revision, "token": token}, local_files_only, check)


def _download(name: str, asked: dict, local_files_only: bool, check) -> Path:
    from huggingface_hub import constants, errors, snapshot_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        """The hub's progress bar, on a terminal only."""

        def __init__(self, *arguments, **options):
            on_terminal = sys.stderr is not None and sys.stderr.isatty()
            super().__init__(*arguments, **{**options, **({} if on_terminal else {"disable": True})})

    def fetch(*patterns: str) -> Path:
        found = snapshot_download(
            name,
            allow_patterns=list(patterns),
            ignore_patterns=list(FOLDERS),
            local_files_only=local_files_only,
            tqdm_class=Bar,
            **asked,
        )
        return Path(found)

    try:
        if not local_files_only and not constants.HF_HUB_OFFLINE:
            _check_files(name, _listed(name, asked))
        if check is not None:
            check(fetch("config.json"))
        return fetch(*PATTERNS)
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.LocalTokenNotFoundError) as error:
        raise InputError(_explained(name, asked["revision"], error)) from None
    except errors.HFValidationError as error:
        raise InputError(f"{name!r} is neither a directory nor an id of the hub: {error}") from None


def _listed(name: str, asked: dict) -> list[str] | None:
    """The names of the repository's files; `None` when the hub cannot be asked, and the cache has to do."""
    from huggingface_hub import HfApi, errors

    try:
        found = HfApi(token=asked["token"]).model_info(name, revision=asked["revision"])
    except errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return None
    except errors.HTTPError:  # no connection
        return None
    return [sibling.rfilename for sibling in found.siblings or []]


def _check_files(name: str, files: list[str] | None) -> None:
    """Refuses a repository that cannot be read before anything is fetched from it."""
    if files is None:
        return
    top = [file for file in files if "/" not in file]
    if not any(file.endswith(".safetensors") for file in top):
        pickled = [file for file in top if file.endswith(_PICKLED)]
        if pickled:
            raise InputError(
                f"{name!r} has its weights only as {pickled[0]}, which tfgpt does not read, as pickle can "
                "run code: convert it once where you trust it, with transformers' AutoModelForCausalLM."
                f"from_pretrained({name!r}).save_pretrained(DIR), and give DIR"
            )
        raise InputError(f"{name!r} has no .safetensors file: expected the repository of a language model")
    if "config.json" not in top:
        raise InputError(f"{name!r} has no config.json: expected the repository of a language model")


def _explained(name: str, revision: str | None, error: Exception) -> str:
    """One line about what the hub answered, or why it did not."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name!r} is gated: accept its terms at https://huggingface.co/{name}, then give a token "
            "(HF_TOKEN)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{name!r} is neither a directory nor a repository of the hub: check the name, or give a token "
            "(HF_TOKEN) if it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{name!r} has no revision {revision!r}: expected a branch, a tag or a commit of the repository"
        )
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"found no token of the hub for {name!r}: log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.HfHubHTTPError):
        code = error.response.status_code
        if code in (401, 403):
            return f"the hub refuses {name!r} (code {code}): give a token (HF_TOKEN) that may read it"
        return f"the hub answered {name!r} with code {code}: try again later"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{name!r} is not a directory, is not whole in the cache, and the hub could not be reached or "
            f"was not asked ({type(error).__name__}): check the path or the connection"
        )
    return (
        f"the download of {name!r} broke off ({type(error).__name__}): try again, it goes on where it stopped"
    )
