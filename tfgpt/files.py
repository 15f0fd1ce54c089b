"""Reading and writing JSON and text. Loads no TensorFlow."""

import os
from pathlib import Path
from typing import Any

from tfgpt.errors import InputError
from tfgpt.paths import check_plain_file
from tfgpt.replacing import replacing_file


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file; InputError when the file is missing, broken, or holds anything else."""
    import json

    path = Path(path)
    check_plain_file(path, "JSON")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: expected a directory with a {path.name}") from None
    except NotADirectoryError:
        raise InputError(f"{path.parent} is a file: expected a directory with a {path.name}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): restore or download it again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}: expected a JSON object")
    return values


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, atomically."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value, indent: int | None = 2) -> None:
    """Writes `value` as JSON to `path`, atomically, with a final newline."""
    import json

    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
