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


def test_an_empty_name_is_not_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is empty"), replacing_directory(""):
        pass
    assert os.listdir(tmp_path) == []


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to("disk")
    with replacing_directory(tmp_path / "model") as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "model").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["disk", "model"]


def test_a_kept_link_to_a_directory_stays_a_link(tmp_path):
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / "file").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "data").symlink_to("../huge")
    with replacing_directory(tmp_path / "model", keep=lambda entry: True) as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "model" / "data").is_symlink()
    assert (tmp_path / "model" / "data" / "file").read_text() == "mine"


def test_the_current_directory_stays_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("keep", "drop", "both"):
        (tmp_path / name).write_text("old")
    with replacing_directory(".", keep=lambda entry: entry.name != "drop") as temporary:
        (temporary / "both").write_text("new")
        (temporary / "sub").mkdir()
    assert sorted(os.listdir(".")) == ["both", "keep", "sub"]
    assert (tmp_path / "both").read_text() == "new"


def test_what_is_somebody_elses_is_refused_before_and_after(tmp_path):
    path = tmp_path / "train"
    with replacing_directory(path, owned=("index.json", "tokens-*.bin")) as temporary:
        (temporary / "tokens-00000.bin").touch()
    with replacing_directory(path, owned=("index.json", "tokens-*.bin")) as temporary:
        (temporary / "index.json").touch()
    with (
        pytest.raises(InputError, match=r"found thesis.txt in .*/train, expected a new or empty"),
        replacing_directory(path, owned=("index.json", "tokens-*.bin")),
    ):
        (path / "thesis.txt").write_text("mine")
    assert sorted(os.listdir(path)) == ["index.json", "thesis.txt"]
    with (
        pytest.raises(InputError, match=r"found thesis.txt"),
        replacing_directory(path, owned=("index.json",)),
    ):
        pytest.fail("the block runs")
    assert os.listdir(tmp_path) == ["train"]


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path, python):
    """A child dies within both managers; another, in this process, is still at work."""
    code = f"""
import os
from tfgpt.files import replacing_directory, replacing_file
os.chdir({str(tmp_path)!r})
with replacing_directory("model") as directory, replacing_file("a.json"):
    (directory / "file").touch()
    os._exit(0)
"""
    python(code)
    left = sorted(os.listdir(tmp_path))
    assert len(left) == 2 and all(name.endswith(".part") for name in left)
    with replacing_directory(tmp_path / "model") as first, replacing_file(tmp_path / "a.json") as second:
        (first / "file").touch()
        assert len(os.listdir(tmp_path)) == 2 and not set(left) & set(os.listdir(tmp_path))
        python(code)
        assert first.exists() and second.exists()
    assert sorted(name for name in os.listdir(tmp_path) if name.endswith(".part")) != []
    write_json(tmp_path / "a.json", 1)
    with replacing_directory(tmp_path / "model"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a.json", "model"]


def test_an_old_directory_that_a_crash_left_alone_is_put_back(tmp_path):
    (tmp_path / ".model.tfgpt.old").mkdir()
    (tmp_path / ".model.tfgpt.old" / "mine").write_text("kept")
    with replacing_directory(tmp_path / "model", keep=lambda entry: True) as temporary:
        (temporary / "new").touch()
    assert sorted(os.listdir(tmp_path / "model")) == ["mine", "new"]
    assert os.listdir(tmp_path) == ["model"]


def test_what_a_crash_left_alone_is_put_back_also_where_it_is_refused(tmp_path):
    (tmp_path / ".model.tfgpt.old").mkdir()
    (tmp_path / ".model.tfgpt.old" / "mine").write_text("kept")
    with (
        pytest.raises(InputError, match=r"found mine in .*/model, expected a new or empty directory"),
        replacing_directory(tmp_path / "model", owned=()),
    ):
        pytest.fail("the block runs")
    assert (tmp_path / "model" / "mine").read_text() == "kept"


def test_neighbours_of_similar_names_stay(tmp_path):
    neighbours = (".model.old", ".model.notes.part", ".model.abcd1234.part", "model.part", ".model")
    for name in neighbours:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    for name in (".a.json.notes.part", ".a.json.abcd1234.part"):
        (tmp_path / name).touch()
    for _ in range(2):
        with replacing_directory(tmp_path / "model") as temporary:
            (temporary / "new").touch()
        write_json(tmp_path / "a.json", 1)
    here = sorted((*neighbours, ".a.json.notes.part", ".a.json.abcd1234.part", "a.json", "model"))
    assert sorted(os.listdir(tmp_path)) == here
    assert all(os.listdir(tmp_path / name) == ["mine"] for name in neighbours)


@pytest.mark.parametrize("is_fixed", [False, True])
def test_a_directory_where_a_file_is_to_be_written_stays(tmp_path, monkeypatch, is_fixed):
    path = tmp_path / "model"
    (path / "weights").mkdir(parents=True)
    (path / "weights" / "mine").touch()
    if is_fixed:
        monkeypatch.chdir(path)
    with (
        pytest.raises(InputError, match=r"found a directory at .*weights, expected a file to replace"),
        replacing_directory(path, keep=lambda entry: True) as temporary,
    ):
        (temporary / "weights").touch()
    assert os.listdir(path / "weights") == ["mine"]
    assert os.listdir(tmp_path) == ["model"] and os.listdir(path) == ["weights"]


@pytest.mark.parametrize("mode", [0o700, 0o2750, 0o755])
def test_permissions_of_what_is_replaced_stay(tmp_path, mode):
    path = tmp_path / "model"
    path.mkdir()
    path.chmod(mode)
    with replacing_directory(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) & 0o077 == 0  # until it is whole
        (temporary / "new").touch()
    assert stat.S_IMODE(path.stat().st_mode) == mode
    (path / "file").touch(0o600)
    write_text(path / "file", "new")
    assert stat.S_IMODE((path / "file").stat().st_mode) == 0o600


def test_new_directories_have_ordinary_permissions(tmp_path):
    for parent in (tmp_path / "plain", tmp_path / "group"):
        parent.mkdir()
    (tmp_path / "group").chmod(0o2775)
    for parent in (tmp_path / "plain", tmp_path / "group"):
        (parent / "ordinary").mkdir()
        with replacing_directory(parent / "model"):
            pass
        assert (parent / "model").stat().st_mode == (parent / "ordinary").stat().st_mode


def test_a_working_directory_that_is_gone_is_no_reason_to_fail(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    (tmp_path / "model").mkdir()
    with replacing_directory(tmp_path / "model") as temporary:
        (temporary / "new").touch()
    assert os.listdir(tmp_path / "model") == ["new"]


@pytest.mark.parametrize("name", [None, 5, b"model", "", "a\0b", "~nobody_of_this_name/model"])
def test_what_is_no_name_of_a_directory(name):
    with pytest.raises(InputError), replacing_directory(name):
        pass


def test_the_home_directory_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with replacing_directory("~/model"):
        pass
    write_text("~/file", "text")
    assert sorted(os.listdir(tmp_path)) == ["file", "model"]
