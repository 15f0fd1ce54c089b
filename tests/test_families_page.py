"""docs/families.md: a row for every family, and commands that select tests that exist, for each family."""

import re
import shlex
from pathlib import Path

import pytest

from tfgpt.families.registry import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/families.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for line in PAGE.splitlines() if re.match(r" {4,}(pytest|python|tfgpt) ", line)]
# No other library has GPT-3, and gpt-oss's export has a file of its own.
WITHOUT = {("gpt3", "test_parity_live.py"), ("gpt_oss", "test_export_families.py")}


@pytest.fixture(scope="module")
def collected(python):
    """The ids of all tests in the files that the page names, by file."""
    paths = {word for command in COMMANDS for word in command[1:] if word.startswith("tests/")}
    code = f"""
import pytest, sys
sys.exit(pytest.main(["--collect-only", "-q", "-m", "slow or not slow", *{sorted(paths)!r}]))
"""
    ids = {}
    for line in python(code).splitlines():
        if "::" in line:
            ids.setdefault(line.split("::")[0], []).append(line)
    return ids


def test_every_family_has_a_row():
    rows = re.findall(r"^\| (\w+) \|", PAGE, re.MULTILINE)
    assert sorted(set(rows) - {"family"}) == sorted(FAMILIES)


def test_commands_name_what_exists():
    assert len(COMMANDS) > 12
    for command in COMMANDS:
        for word in command[1:]:
            if "/" in word:
                assert (ROOT / word).exists(), command


def test_commands_select_tests(collected):
    for command in COMMANDS:
        for path in (word for word in command[1:] if word.startswith("tests/")):
            ids = [each for file, found in collected.items() for each in found if file.startswith(path)]
            if not ids and "live" in path:
                pytest.skip("torch or transformers is not installed: its files collect nothing")
            assert ids, command
            if "NAME" not in " ".join(command):
                continue
            for family in FAMILIES:
                if (family, Path(path).name) not in WITHOUT:
                    assert any(family in each for each in ids), (family, command)
