"""The README is true: its snippets run, its commands and its paths exist."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_there_are_five_snippets():
    section = README.split("## Five things")[1].split("\n## ")[0]
    assert section.count("```") == 10


def test_the_python_snippets_run_in_order(tmp_path, monkeypatch, fixtures_directory, capsys):
    """As a reader would run them: one after the other in one directory, each with its own names."""
    monkeypatch.chdir(tmp_path)
    source = fixtures_directory / "gpt2" / "heads_of_8"
    shutil.copytree(fixtures_directory / "tokenizers" / "gpt_oss", tmp_path / "gpt-oss")
    (tmp_path / "gpt-oss/chat_template.jinja").write_text("{{ messages[0].content }}")
    snippets = blocks("python")
    assert len(snippets) == 5
    for snippet in snippets:
        snippet = snippet.replace("path/to/model", str(source)).replace("path/to/gpt-oss", "gpt-oss")
        exec(compile(snippet, "README.md", "exec"), {})
    assert (tmp_path / "my-model/model.safetensors").exists()
    shown = capsys.readouterr().out
    assert "# Verification" in shown
    assert shown.endswith("final 4\n")


def test_the_training_snippet_runs(tmp_path, monkeypatch):
    from tfgpt.cli import main

    [command] = [line for line in "".join(blocks("bash")).splitlines() if line.startswith("tfgpt train")]
    text = "".join(f"line {number}: to be, or not to be\n" for number in range(400))
    (tmp_path / "input.txt").write_text(text)
    arguments = shlex.split(command)[1:]
    arguments[1] = str(ROOT / arguments[1])
    monkeypatch.chdir(tmp_path)
    # The same command, shorter: later settings win.
    sizes = ["training.steps=10", "training.jit=false", "model.num_layers=1", "model.hidden_dim=16"]
    assert main([*arguments, *(part for size in sizes for part in ("--set", size))]) == 0
    assert (tmp_path / "output/tinyshakespeare_char/model/model.safetensors").exists()


def test_every_command_is_listed_with_options_that_exist(capsys):
    from tfgpt.cli import COMMANDS, build_parser

    listing = README.split("## Commands")[1].split("```")[1]
    lines = [line.split() for line in listing.strip().splitlines()]
    assert [words[1] for words in lines] == list(COMMANDS)
    for words in lines:
        with pytest.raises(SystemExit):
            build_parser().parse_args([words[1], "--help"])
        shown = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", " ".join(words)):
            assert option in shown, (words[1], option)


def test_the_tree_names_what_is_there():
    lines = README.split("## The tree")[1].split("```")[1].strip("\n").splitlines()
    folders = {0: ROOT}
    for line in lines:
        names, indent = re.split(r"\s{2,}", line.strip())[0], len(line) - len(line.lstrip())
        for name in names.split():
            path = folders[indent] / name
            assert path.exists(), line
            if path.is_dir():
                folders[indent + 2] = path
    missing = {path.name for path in (ROOT / "tfgpt").iterdir() if not path.name.startswith(("_", "."))}
    assert not {name for name in missing if name.removesuffix(".py") not in README}
