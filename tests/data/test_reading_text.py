"""Reading corpora from files and directories, and what is left out."""

import gzip
import json
import os
import sys

import pytest

from tfgpt.data.text import (
    Document,
    ReadingReport,
    corpus_files,
    read_documents,
    standard_library_documents,
    standard_library_files,
)
from tfgpt.errors import InputError


def test_directory_of_every_kind(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes("\ufeffmit BOM\r\n".encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "sub/c.jsonl").write_text('{"text": "one\\u2028line"}\n\n{"text": "two", "n": 1}\n')
    (tmp_path / "sub/d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "three"}'))
    (tmp_path / "sub/e.TXT").write_text("upper case suffix")
    (tmp_path / "f.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "empty.txt").write_text(" \n")
    report = ReadingReport()
    assert list(read_documents(tmp_path, report)) == [
        Document("a.txt.gz", "packed"),
        Document("b.txt", "mit BOM\r\n"),
        Document("sub/c.jsonl:1", "one\u2028line", "sub/c.jsonl"),
        Document("sub/c.jsonl:3", "two", "sub/c.jsonl"),
        Document("sub/d.jsonl.gz:1", "three", "sub/d.jsonl.gz"),
        Document("sub/e.TXT", "upper case suffix"),
    ]
    assert (report.files, report.documents, report.skipped) == (6, 6, {})
    assert report.bytes == 6 + 9 + 10 + 3 + 5 + 17


def test_what_cannot_be_read_is_left_out_and_counted(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "binary.txt").write_bytes(b"MZ\0\0")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(os.urandom(1000))[:200])
    (tmp_path / "fake.txt.gz").write_bytes(b"not gzip")
    (tmp_path / "link.txt").symlink_to(tmp_path / "absent")
    report = ReadingReport()
    assert [document.name for document in read_documents(tmp_path, report)] == ["good.txt"]
    assert report.skipped == {"binary": 1, "not UTF-8": 1, "broken archive": 2, "unreadable": 1}
    assert report.skipped_files["broken archive"] == ["cut.txt.gz", "fake.txt.gz"]
    json.dumps(report.as_dict())


def test_one_file_whatever_its_suffix(tmp_path):
    (tmp_path / "README").write_text("text")
    assert list(read_documents(tmp_path / "README")) == [Document("README", "text")]


def test_errors(tmp_path):
    with pytest.raises(InputError, match="found nothing at"):
        list(read_documents(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"found no \.txt, \.jsonl file"):
        list(read_documents(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"\0")
    with pytest.raises(InputError, match=r"found no text in .* \(1 binary\)"):
        list(read_documents(tmp_path))
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n{"text": "cut\n')
    with pytest.raises(InputError, match=r"broken JSON in .*b\.jsonl line 2"):
        list(read_documents(tmp_path))
    for line in ('{"body": "x"}', '["x"]', '{"text": 3}', "7"):
        (tmp_path / "b.jsonl").write_text(line)
        with pytest.raises(InputError, match=r'found no "text" in .*b\.jsonl line 1'):
            list(read_documents(tmp_path))


def test_standard_library():
    names = [file.name for file in standard_library_files()]
    assert names == sorted(names)
    assert {"argparse.py", "asyncio/tasks.py", "json/decoder.py"} <= set(names)
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"site-packages", "test", "tests", "encodings"}
    assert len(standard_library_files(include_tests=True)) >= len(names)
    report = ReadingReport()
    documents = {document.name: document.text for document in standard_library_documents(report=report)}
    with open(sys.modules["json.decoder"].__file__, encoding="utf-8") as file:
        assert documents["json/decoder.py"] == file.read()
    assert report.bytes > 5e6
    assert report.skipped == {}


def test_a_python_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "python313.zip"))
    with pytest.raises(InputError, match="found no Python sources"):
        standard_library_files()


def test_corpus_files_names_are_relative_and_sorted(tmp_path):
    for name in ("b/x.txt", "a.txt", "b/a/y.txt", "B.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [file.name for file in corpus_files(tmp_path)] == ["B.txt", "a.txt", "b/a/y.txt", "b/x.txt"]
