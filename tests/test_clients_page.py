"""docs/clients.md: every command names files that exist, and every file of tests/clients stands in a row."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| (?!client|---)", line)]
COMMANDS = [shlex.split(command) for command in re.findall(r"`((?:pytest|python|tfgpt|node) [^`]+)`", PAGE)]


def test_rows_are_client_version_shown_command_result():
    assert len(ROWS) >= 4
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 5 and all(cells), row
        assert re.search(r"`(pytest|python|tfgpt|node) ", cells[3]), row


def test_commands_name_what_exists():
    for command in COMMANDS:
        for word in command[1:]:
            if re.match(r"(tests|benchmarks|docs|export)/", word):
                assert (ROOT / word).exists(), command


def test_every_test_of_a_client_has_a_row():
    for path in sorted((ROOT / "tests/clients").glob("test_*.py")):
        assert any(f"tests/clients/{path.name}" in row for row in ROWS), path.name
