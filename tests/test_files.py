"""Nothing is ever half-written."""

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from tfgpt import InputError
from tfgpt.files import read_json, write_json, write_text
from tfgpt.filesystem import umask
from tfgpt.paths import user_path
from tfgpt.replacing import replacing_directory, replacing_file


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
from tfgpt.replacing import replacing_directory, replacing_file
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "found None, expected the path"),
        (5, "found 5, expected the path"),
        (b"model", "found b'model', expected the path"),
        ("a\0b", "expected the path"),
        ("", "is empty"),
        ("/", "root of the file system"),
    ],
)
def test_what_is_no_name_of_a_directory(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words), replacing_directory(name):
        pytest.fail("the block runs")
    assert os.listdir(tmp_path) == []


def test_the_home_directory_is_written_short_by_users_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/model") == user_path(Path("~/model")) == tmp_path / "home" / "model"
    with pytest.raises(InputError, match="no home directory of that user"):
        user_path("~nobody_of_this_name/model")
    assert user_path(user_path("./~name/model")) == tmp_path / "~name" / "model"
    assert user_path("a/../b/./c") == Path("a/../b/c")
    write_json("~/a.json", {})
    assert read_json("~/a.json") == {} and os.listdir(tmp_path) == ["~"]


def test_what_is_written_has_the_group_of_what_is_replaced(tmp_path, monkeypatch):
    """Without the right to give things away, and with it: then it is asked for before anything is written."""
    path = tmp_path / "model"
    path.mkdir()
    given = []
    monkeypatch.setattr(os, "chown", lambda target, user, group: given.append((user, group)))
    with replacing_directory(path):
        assert given == [(path.stat().st_uid, -1), (-1, path.stat().st_gid)]

    def denied(target, user, group):
        raise PermissionError

    monkeypatch.setattr(os, "chown", denied)
    with replacing_directory(path) as temporary:
        (temporary / "new").touch()
    assert os.listdir(path) == ["new"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_gives_no_permissions(tmp_path):
    (tmp_path / "private").touch(0o600)
    (tmp_path / "plain").touch()
    (tmp_path / "link").symlink_to("private")
    write_text(tmp_path / "link", "new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "private").read_text() == ""


def test_a_file_replaces_no_directory_device_or_pipe(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    for path in (tmp_path / "directory", tmp_path / "link", Path(os.devnull)):
        with pytest.raises(InputError, match="is no file: expected the name of one"):
            write_text(path, "new")
    assert (tmp_path / "link").is_symlink() and not os.path.isfile(os.devnull)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users")
def test_what_may_not_be_written_or_removed_is_replaced_again_and_again(python):
    """By somebody who is not root, for whom permissions count; this process may be root."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        os.chmod(folder, 0o777)
        if any(parent.stat().st_mode & 0o001 == 0 for parent in Path(folder).resolve().parents):
            pytest.skip(f"a parent of {folder} is closed to others")
        _replace_as_somebody_else(folder, python)


def _replace_as_somebody_else(folder, python):
    code = f"""
import os, stat
from tfgpt.replacing import replacing_directory
os.chdir({folder!r})
os.makedirs("model/sub")
has_roots = os.geteuid() == 0
if has_roots:
    open("model/sub/roots", "w").close()
    os.chown("model", 65534, 65534)
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for number in range(3):
    os.chmod("model", 0o555)
    with replacing_directory("model") as temporary:
        (temporary / str(number)).touch()
    assert os.listdir("model") == [str(number)]
    assert stat.S_IMODE(os.stat("model").st_mode) == 0o555
    assert len(os.listdir(".")) == 1 + has_roots, os.listdir(".")  # the first one, with what is root's
os.chmod("model", 0o755)
os.unlink("model/2")
os.rmdir("model")
with replacing_directory("model", keep=lambda entry: True) as temporary:
    (temporary / "new").touch()
assert os.listdir("model") == ["new"]  # what could not be removed does not come back
"""
    python(code)
    assert [name for name in os.listdir(folder) if not name.endswith(".part")] == ["model"]


def test_neighbours_that_cannot_be_looked_at_are_passed_over(tmp_path, monkeypatch):
    """A dead network file system beside the target, say."""
    (tmp_path / "dead").mkdir()
    (tmp_path / ".model.tfgpt-abcd1234.part").mkdir()
    look = os.stat

    def failing(path, **options):
        if str(path).endswith(("dead", "abcd1234.part")):
            raise PermissionError("dead")
        return look(path, **options)

    monkeypatch.setattr(os, "stat", failing)
    with replacing_directory(tmp_path / "model"):
        pass
    monkeypatch.undo()
    assert (tmp_path / "model").is_dir()


def test_processes_that_replace_one_directory_keep_what_is_kept(tmp_path, python):
    code = f"""
import os, threading
from tfgpt.replacing import replacing_directory
os.chdir({str(tmp_path)!r})

def work(number):
    for _ in range(300):
        with replacing_directory("model", keep=lambda entry: entry.name.startswith("keep")) as temporary:
            (temporary / str(number)).touch()

os.mkdir("model")
for number in range(5):
    open(f"model/keep{{number}}", "w").close()
child = os.fork()
work(child == 0)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
found = sorted(os.listdir("model"))
assert found[1:] == [f"keep{{number}}" for number in range(5)], found
assert os.listdir(".") == ["model"], os.listdir(".")
"""
    python(code)


BEFORE = {"config", "keep", "weights-1", "weights-2"}
AFTER = {"config", "keep", "weights"}


def _fill(path):
    path.mkdir()
    for name in BEFORE:
        (path / name).write_text("old")


def _save(path):
    """As a model is saved: the old weights go, the rest stays or is replaced."""
    with replacing_directory(path, keep=lambda entry: not entry.name.startswith("weights")) as temporary:
        for name in ("config", "weights"):
            (temporary / name).write_text("new")


def _dying_at(move):
    """The beginning of a program that is killed when it would rename something for the `move`-th time."""
    return f"""
import os
from tfgpt.replacing import replacing_directory
rename, count = os.replace, iter(range(100))
def dying(source, target):
    if next(count) == {move}:
        os._exit(0)
    rename(source, target)
os.replace = dying
"""


@pytest.mark.parametrize("moves", range(7))
@pytest.mark.parametrize("kind", [KeyboardInterrupt, PermissionError])
def test_entries_are_all_replaced_or_none(tmp_path, monkeypatch, kind, moves):
    """Ctrl-C, or an entry that cannot be moved, while the current directory is replaced."""
    _fill(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    rename, count = os.replace, iter(range(100))

    def failing(source, target):
        if next(count) == moves:
            raise kind
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with contextlib.suppress(kind):
        _save(".")
    monkeypatch.undo()
    found = {entry.name: entry.read_text() for entry in (tmp_path / "model").iterdir() if entry.is_file()}
    if moves < 6:  # three old entries aside, two new ones in, and the old ones away
        assert found == dict.fromkeys(BEFORE, "old")
    else:
        assert found == {**dict.fromkeys(AFTER, "new"), "keep": "old"}
    assert os.listdir(tmp_path) == ["model"]
    _save(tmp_path / "model")
    assert set(os.listdir(tmp_path / "model")) == AFTER


@pytest.mark.parametrize("moves", range(1, 6))
def test_entries_of_a_killed_process_are_put_back(tmp_path, python, moves):
    _fill(tmp_path / "model")
    python(f"""
{_dying_at(moves)}
os.chdir({str(tmp_path / "model")!r})
with replacing_directory(".", keep=lambda entry: not entry.name.startswith("weights")) as temporary:
    for name in ("config", "weights"):
        (temporary / name).write_text("new")
""")
    with pytest.raises(RuntimeError), replacing_directory(tmp_path / "model"):
        found = {entry.name: entry.read_text() for entry in (tmp_path / "model").iterdir() if entry.is_file()}
        assert found == dict.fromkeys(BEFORE, "old")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["model"]
    assert not [name for name in os.listdir(tmp_path / "model") if name.startswith(".")]


def test_only_its_own_leftovers_are_owned(tmp_path):
    path = tmp_path / "train"
    (path / ".thesis.tfgpt-notes.part").mkdir(parents=True)
    with pytest.raises(InputError, match=r"found \.thesis"), replacing_directory(path, owned=()):
        pytest.fail("the block runs")


def test_a_directory_that_cannot_be_moved_gets_its_entries(tmp_path, monkeypatch):
    """In another layer of a container's file system, or somebody else's in a directory like /tmp."""
    _fill(tmp_path / "model")
    (tmp_path / "model" / "runs").mkdir()
    kept, rename = (tmp_path / "model" / "runs").stat().st_ino, os.replace

    def fixed(source, target):
        if source == tmp_path / "model":
            raise OSError(errno.EXDEV, "not here")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fixed)
    _save(tmp_path / "model")
    found = {entry.name: entry.read_text() for entry in (tmp_path / "model").iterdir() if entry.is_file()}
    assert found == {**dict.fromkeys(AFTER, "new"), "keep": "old"}
    assert (tmp_path / "model" / "runs").stat().st_ino == kept  # the one that was there
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("moves", range(1, 5))
@pytest.mark.parametrize("made", [None, "empty", "full"])
def test_the_only_copy_is_never_given_up(tmp_path, python, moves, made):
    """A process dies within the swap, and somebody makes the directory before the next call."""
    model = tmp_path / "model"
    _fill(model)
    python(f"""
{_dying_at(moves)}
with replacing_directory({str(model)!r}) as temporary:
    (temporary / "new").touch()
""")
    is_aside = not model.exists()  # the old one, before the new one stands
    if made is not None:
        model.mkdir(exist_ok=True)
    if made == "full":
        (model / "mine").touch()
    if is_aside and made == "full":
        with pytest.raises(InputError, match=r"found .*/model, and beside it \.model\.tfgpt\.old"):
            _save(model)
        assert set(os.listdir(tmp_path / ".model.tfgpt.old")) == BEFORE
        (model / "mine").unlink()
    _save(model)
    assert set(os.listdir(model)) >= ({"keep"} if moves < 3 else set()) | {"config", "weights"}
    assert os.listdir(tmp_path) == ["model"]


def test_what_another_process_leaves_aside_meanwhile_is_put_back_too(tmp_path):
    """It dies within its swap, while this one writes."""
    _fill(tmp_path / "model")
    with replacing_directory(tmp_path / "model", keep=lambda entry: entry.name == "keep") as temporary:
        (temporary / "config").write_text("new")
        (tmp_path / ".model.tfgpt.new").mkdir()
        os.replace(tmp_path / "model", tmp_path / ".model.tfgpt.old")
    assert sorted(os.listdir(tmp_path / "model")) == ["config", "keep"]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives things away")
def test_what_a_group_may_is_not_for_another_group(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o664)
    os.chown(path, -1, 12345)
    write_text(path, "kept")
    assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (12345, 0o664)

    def denied(target, user, group):
        raise PermissionError

    monkeypatch.setattr(os, "chown", denied)
    write_text(path, "not kept")
    assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (os.getegid(), 0o644)


def test_a_directory_within_one_of_its_name(tmp_path, python):
    """What is aside of the inner one is not taken for the outer's."""
    outer = tmp_path / "x"
    _fill(outer)
    _fill(outer / "x")
    (outer / "x" / "config").write_text("inner")
    os.replace(outer / "x", outer / ".x.tfgpt.old")
    with pytest.raises(RuntimeError), replacing_directory(outer, keep=lambda entry: True):
        raise RuntimeError
    assert (outer / "config").read_text() == "old"
    assert (outer / ".x.tfgpt.old" / "config").read_text() == "inner"


def test_a_lock_that_cannot_be_removed_or_opened_blocks_nobody(tmp_path, monkeypatch):
    remove = os.unlink

    def denied(path, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EPERM, "somebody else's")
        remove(path, **options)

    monkeypatch.setattr(os, "unlink", denied)
    for _ in range(2):
        _save(tmp_path / "model")
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == [".model.tfgpt.lock", "model"]
    (tmp_path / ".model.tfgpt.lock").unlink()
    for make in (lambda path: path.mkdir(), lambda path: path.symlink_to("elsewhere")):
        make(tmp_path / ".model.tfgpt.lock")
        _save(tmp_path / "model")
        assert not (tmp_path / "elsewhere").exists()
        if (tmp_path / ".model.tfgpt.lock").is_dir():
            (tmp_path / ".model.tfgpt.lock").rmdir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives things away")
def test_what_another_user_has_put_aside_is_not_taken(tmp_path):
    (tmp_path / ".model.tfgpt.old").mkdir()
    (tmp_path / ".model.tfgpt.old" / "theirs").touch()
    os.chown(tmp_path / ".model.tfgpt.old", 65534, 65534)
    with pytest.raises(InputError, match="belongs to another user"):
        _save(tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == [".model.tfgpt.old"]


def test_a_mount_within_is_not_walked_into(tmp_path):
    mounted, data = tmp_path / "model" / "data", tmp_path / "disk"
    _fill(tmp_path / "model")
    for folder in (mounted, data):
        folder.mkdir()
    (data / "mine").touch()
    if shutil.which("mount") is None or subprocess.run(["mount", "--bind", data, mounted]).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        _save(tmp_path / "model")
        assert os.listdir(mounted) == ["mine"] and set(os.listdir(tmp_path / "model")) == {*AFTER, "data"}
        with (
            pytest.raises(InputError, match="where a file system is mounted"),
            replacing_directory(tmp_path / "model"),
        ):
            pass
        assert set(os.listdir(tmp_path / "model")) == {*AFTER, "data"}
    finally:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if (place := line.split(" ")[4]).startswith(f"{tmp_path}/"):  # wherever it has gone
                subprocess.run(["umount", place], check=True)
    assert os.listdir(data) == ["mine"] and sorted(os.listdir(tmp_path)) == ["disk", "model"]


def test_the_umask_is_read_and_not_set(monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("it is set"))
        if not Path("/proc/self/status").exists():
            pytest.skip("it cannot be read here")
        assert umask() == 0o027
    finally:
        monkeypatch.undo()
        os.umask(before)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["killed", "interrupted"])
@pytest.mark.parametrize("is_fixed", [False, True])
def test_at_every_line(tmp_path, python, way, is_fixed):
    """A process is killed, or interrupted, before each line: the next call finds the old, or the new."""
    code = f"""
import os, shutil, signal, sys, itertools
from pathlib import Path
import tfgpt.filesystem, tfgpt.locks, tfgpt.replacing, tfgpt.swapping
watched = {{each.__file__ for each in (tfgpt.filesystem, tfgpt.locks, tfgpt.replacing, tfgpt.swapping)}}
model = Path({str(tmp_path / "model")!r})
old = dict(config="old", weights="old", keep="mine")
new = {{"config": "new", "weights-1": "new", "index": "new", "keep": "mine"}}

def save(fails=False):
    keep = lambda entry: not entry.name.startswith("weights")
    with tfgpt.replacing.replacing_directory(model, keep=keep) as temporary:
        for name, text in new.items():
            if name != "keep":
                (temporary / name).write_text(text)
        if fails:
            raise RuntimeError

def ends_at(line):
    "In a child: whether it came so far."
    lines = itertools.count()
    def trace(frame, event, argument):
        if frame.f_code.co_filename not in watched:
            return None
        if event == "line" and next(lines) == line:
            sys.settrace(None)
            if {way == "killed"}:
                os._exit(1)
            raise KeyboardInterrupt
        return trace
    sys.settrace(trace)
    try:
        save()
        os._exit(0)
    except KeyboardInterrupt:
        sys.settrace(None)
    signal.alarm(10)  # which ends a process that waits for itself
    save()
    os._exit(1)

for line in itertools.count():
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir()
    for name, text in old.items():
        (model / name).write_text(text)
    os.chdir(model if {is_fixed} else model.parent)
    child = os.fork()
    if child == 0:
        ends_at(line)
    status = os.waitpid(child, 0)[1]
    assert status in (0, 256), (line, status)
    try:
        save(fails=True)
    except RuntimeError:
        pass
    found = {{entry.name: entry.read_text() for entry in model.iterdir()}}
    assert found in (old, new), (line, found)
    if {way == "interrupted"}:
        assert found == new, (line, found)
    assert os.listdir(model.parent) == ["model"], (line, os.listdir(model.parent))
    if status == 0:
        break
assert line > 100
"""
    python(code)
