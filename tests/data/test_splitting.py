"""The split by file: stable, disjoint, never empty."""

import hashlib

import pytest

from tfgpt.data.splitting import name_hash, split_by_file, validation_files
from tfgpt.data.text import Document
from tfgpt.errors import InputError


def test_name_hash_is_fixed_for_ever():
    digest = hashlib.blake2b(b"0\na.txt", digest_size=8).digest()
    assert name_hash("a.txt") == int.from_bytes(digest, "big") / 2**64
    assert name_hash("a.txt", seed=1) != name_hash("a.txt")


def test_adding_files_moves_no_other():
    names = [f"file{number}.txt" for number in range(2000)]
    before = validation_files(names[:1000], 0.1)
    after = validation_files(names, 0.1)
    assert after & set(names[:1000]) == before
    assert 150 < len(after) < 250  # binomial(2000, 0.1): 200 +- 13
    assert validation_files(names, 0.1, seed=1) != after


def test_neither_side_is_empty():
    for count in range(2, 30):
        names = [f"{count}-{number}" for number in range(count)]
        for fraction in (0.001, 0.5, 0.999):
            assert 1 <= len(validation_files(names, fraction)) <= count - 1


def test_records_of_a_file_and_copies_stay_together():
    documents = [
        Document(f"{file}.jsonl:{line}", f"text {min(file, 20)} {line}", f"{file}.jsonl")
        for file in range(40)
        for line in range(5)
    ]
    train, validation = split_by_file(documents, 0.3)
    assert train and validation
    assert not {document.file for document in train} & {document.file for document in validation}
    texts = [Document(f"{number}", "copy" if number % 2 else f"own {number}") for number in range(40)]
    train, validation = split_by_file(texts, 0.3)
    assert not {document.text for document in train} & {document.text for document in validation}
    with pytest.raises(InputError, match="found only copies"):
        split_by_file([Document("a", "copy"), Document("b", "copy")], 0.3)


def test_one_text_is_cut_after_a_line():
    text = "".join(f"line {number}\n" for number in range(100))
    (train,), (validation,) = split_by_file([Document("a.txt", text)], 0.1)
    assert train.text + validation.text == text
    assert train.text.endswith("\n")
    assert 0.05 < len(validation.text) / len(text) <= 0.1
    (train,), (validation,) = split_by_file([Document("a.txt", "0123456789")], 0.2)
    assert (train.text, validation.text) == ("01234567", "89")


def test_one_jsonl_file_gives_its_last_records():
    documents = [Document(f"a.jsonl:{line}", f"record {line}", "a.jsonl") for line in range(10, 30)]
    train, validation = split_by_file(documents, 0.1)
    assert train + validation == documents
    assert 1 <= len(validation) <= 3
    train, validation = split_by_file(documents[:2], 0.01)
    assert (train, validation) == (documents[:1], documents[1:2])


def test_errors():
    with pytest.raises(InputError, match="found no documents"):
        split_by_file([])
    with pytest.raises(InputError, match="found only 1 characters in a"):
        split_by_file([Document("a", "x")])
    with pytest.raises(InputError, match="found 1 file"):
        validation_files(["a"])
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="found validation_fraction"):
            split_by_file([Document("a", "text")], fraction)
        with pytest.raises(InputError, match="found validation_fraction"):
            validation_files(["a", "b"], fraction)
