"""What is installed is what runs: setup.py names every import and every file that is not Python."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What is imported under another name than it is installed by.
IMPORTED_AS = {"pyyaml": "yaml"}
# Programs for other environments: no modules, and no requirements of this one.
PROGRAMS = {ROOT / "export/tfgpt_export/readme", ROOT / "export/tfgpt_export/programs"}
# Imported where it is the backend that somebody chose, hence installed it.
BACKENDS = {"jax"}


@pytest.fixture(scope="module")
def settings():
    """The arguments of `setup(...)` that are written out as literals."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    [call] = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"
    ]
    found = {}
    for keyword in call.keywords:
        try:
            found[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return found


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_every_import_is_a_requirement(settings):
    names = [re.split(r"[<>=!~\[ ]", requirement)[0] for requirement in settings["install_requires"]]
    required = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}
    sources = [*(ROOT / "tfgpt").rglob("*.py"), *(ROOT / "export").rglob("*.py")]
    used = {name for path in sources if path.parent not in PROGRAMS for name in imported(path)}
    own = {"tfgpt", "tfgpt_export"} | set(sys.stdlib_module_names)
    assert sorted(used - own - BACKENDS - required) == []
    # These are promised to users, who find them installed.
    assert sorted(required - used) == ["keras_nlp", "tensorflow_text"]


def test_files_that_are_not_python_are_package_data(settings):
    for root in (ROOT / "tfgpt", ROOT / "export/tfgpt_export"):
        for path in sorted(root.rglob("*")):
            is_module = path.suffix == ".py" and path.parent not in PROGRAMS
            if path.is_dir() or is_module or path.suffix == ".pyc":
                continue
            folder = root if path.parent in PROGRAMS else path.parent
            package = ".".join(folder.relative_to(root.parent).parts)
            patterns = settings["package_data"].get(package, [])
            assert any(path.match(pattern) for pattern in patterns), f"{path} would not be installed"


def test_every_folder_of_sources_is_a_package():
    for root in (ROOT / "tfgpt", ROOT / "export/tfgpt_export"):
        for path in root.rglob("*.py"):
            assert path.parent in PROGRAMS or (path.parent / "__init__.py").exists(), path
