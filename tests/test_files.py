"""Nothing is ever half-written."""

import json
import os
import stat

import pytest

from tfgpt import InputError
from tfgpt.files import replacing_directory, replacing_file, write_json, write_text


def test_a_file_appears_whole_with_ordinary_permissions(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replacing_file(path) as temporary:
        assert temporary.parent == path.parent and not path.exists()
        temporary.write_text("text")
    assert path.read_text() == "text"
    assert os.listdir(path.parent) == ["file.txt"]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing_file(path) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "ü": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(TypeError):
        write_json(tmp_path / "b.json", {"x": object()})
    assert os.listdir(tmp_path) == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"ü": [1, None]}


def test_a_directory_replaces_another_as_a_whole(tmp_path):
    path = tmp_path / "model"
    for content in ("one", "two"):
        with replacing_directory(path) as temporary:
            (temporary / content).write_text(content)
        assert os.listdir(path) == [content]
        assert os.listdir(tmp_path) == ["model"]


def test_kept_entries_come_along_but_do_not_win(tmp_path):
    path = tmp_path / "model"
    (path / "sub").mkdir(parents=True)
    for name in ("keep.txt", "drop.txt", "both.txt", "sub/inner.txt"):
        (path / name).write_text("old")
    with replacing_directory(path, keep=lambda entry: entry.name != "drop.txt") as temporary:
        (temporary / "both.txt").write_text("new")
    found = {str(each.relative_to(path)): each.read_text() for each in path.rglob("*.txt")}
    assert found == {"keep.txt": "old", "both.txt": "new", "sub/inner.txt": "old"}


def test_a_failing_directory_leaves_the_old_one(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), replacing_directory(path) as temporary:
        (temporary / "new").touch()
        raise RuntimeError
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_failing_rename_puts_the_old_directory_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    rename = os.replace

    def failing(source, target):
        if str(source).endswith(".part"):
            raise PermissionError("no")
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(PermissionError), replacing_directory(path):
        pass
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_file_in_the_place_of_a_directory_is_refused_and_kept(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(InputError, match="is a file"), replacing_directory(tmp_path / "model"):
        pass
    assert (tmp_path / "model").read_text() == "mine"
