"""Whose an output directory is: a job's, or somebody else's, where nothing is overwritten. No TF."""

import os
from pathlib import Path

from tfgpt.errors import InputError
from tfgpt.files import read_json
from tfgpt.paths import check_place_of_directory, visible_entries

_SECTIONS = {"task", "model", "data", "training", "output"}


def check_output(output: str | os.PathLike, job: str = "", passed_over: str = "data") -> None:
    """Refuses a directory that holds something, and no job.

    Args:
        output: the directory; it need not be there.
        job: where in it a job's recipe.json stands.
        passed_over: the entry that is there before recipe.json is, and looks after itself.

    Raises:
        InputError: it is a file, or holds something, and no recipe.json of a job.
    """
    output = Path(output)
    check_place_of_directory(output)
    found = [entry.name for entry in visible_entries(output) if entry.name != passed_over]
    if found and not _is_recipe(output / job / "recipe.json"):
        raise InputError(
            f"found {found[0]} in {output}, which no earlier run wrote, expected a new or empty directory, "
            "or the output of an earlier run; name another output, or move it away"
        )


def _is_recipe(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        values = read_json(path)
    except InputError:
        return False  # no JSON: not ours
    return values.keys() >= _SECTIONS
