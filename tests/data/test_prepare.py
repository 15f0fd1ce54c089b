"""prepare_corpus: from files to shards, and what a second call does again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfgpt.data import corpus as corpus_module
from tfgpt.data import prepare as prepare_module
from tfgpt.data.corpus import CorpusOptions, select_files
from tfgpt.data.prepare import PreparedCorpus, prepare_corpus
from tfgpt.data.text import corpus_files
from tfgpt.errors import InputError
from tfgpt.tokenizers.byte_pair import BytePairTokenizer

DATA = Path(os.environ.get("TFGPT_DATA") or Path(__file__).resolve().parents[3] / "shared/data")
OPTIONS = CorpusOptions(vocabulary_size=300, validation_fraction=0.2)


@pytest.fixture
def source(tmp_path):
    """40 texts, a copy, and one with things to clean."""
    directory = tmp_path / "corpus"
    directory.mkdir()
    for number in range(40):
        (directory / f"{number:02d}.txt").write_text(f"text number {number} says é\n" * (number + 1))
    (directory / "copy.txt").write_text((directory / "07.txt").read_text())
    (directory / "dirty.txt").write_bytes(b"dirty \r\nlines\x01\r\n")
    return directory


def test_shards_hold_the_cleaned_text_of_each_split(source, tmp_path):
    seen = []
    corpus = prepare_corpus(source, tmp_path / "out", OPTIONS, progress=lambda *event: seen.append(event))
    names = {
        split: shards.document_names()
        for split, shards in (("train", corpus.train), ("validation", corpus.validation))
    }
    assert sorted(names["train"] + names["validation"]) == sorted(
        [f"{number:02d}.txt" for number in range(40)] + ["dirty.txt"]
    )
    cleaned = {name: (source / name).read_text() for name in names["train"] + names["validation"]}
    cleaned["dirty.txt"] = "dirty\nlines\n"
    for split, shards in (("train", corpus.train), ("validation", corpus.validation)):
        assert corpus.text_bytes(split) == "".join(cleaned[name] for name in names[split]).encode()
        assert shards.num_bytes == len(corpus.text_bytes(split)) == corpus.report["bytes"][split]
        assert shards.num_tokens == corpus.report["tokens"][split]
    assert corpus.report["validation_files"] == names["validation"]
    assert corpus.report["cleaning"]["duplicates_dropped"] == 1
    assert corpus.report["cleaning"]["control_characters_removed"] == 1
    assert json.loads((tmp_path / "out/report.json").read_text()) == corpus.report
    stages = [stage for stage, _, _ in seen]
    assert sorted(set(stages), key=stages.index) == ["read", "tokenizer", "train", "validation"]
    for stage in ("tokenizer", "train", "validation"):
        done, total = [event[1:] for event in seen if event[0] == stage][-1]
        assert done == total


def test_the_tokenizer_learns_from_training_text_alone(source, tmp_path):
    corpus = prepare_corpus(source, tmp_path / "out", OPTIONS)
    texts = [
        text
        for name in corpus.train.document_names()
        for text in [(source / name).read_text() if name != "dirty.txt" else "dirty\nlines\n"]
    ]
    assert BytePairTokenizer.train(texts, 300).fingerprint() == corpus.tokenizer.fingerprint()


def test_the_tokenizer_learns_from_a_part_of_one_long_file(tmp_path, monkeypatch):
    """Where whole files are chosen, a single one is all or nothing."""
    text = "".join(f"word{number % 89} and {number % 97}\n" for number in range(60_000))
    (tmp_path / "one.txt").write_text(text)
    train, learned = BytePairTokenizer.train, []

    def record(texts, vocabulary_size):
        learned.append("".join(texts))
        return train([learned[-1]], vocabulary_size)

    monkeypatch.setattr(BytePairTokenizer, "train", record)
    for size in (100_000, 2**27):
        options = CorpusOptions(vocabulary_size=300, validation_fraction=0.2, tokenizer_bytes=size)
        corpus = prepare_corpus(tmp_path / "one.txt", tmp_path / str(size), options)
    assert 50_000 < len(learned[0]) < 150_000
    assert learned[1].encode() == corpus.text_bytes("train")


def test_corpora_too_large_for_memory_give_the_same(source, tmp_path, monkeypatch):
    expected = prepare_corpus(source, tmp_path / "one", OPTIONS)
    monkeypatch.setattr(corpus_module, "KEEP_BYTES", 1000)
    found = prepare_corpus(source, tmp_path / "two", OPTIONS)
    assert found.report == expected.report
    for name in ("train/tokens-00000.bin", "validation/tokens-00000.bin", "train/documents.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def count_calls(monkeypatch, name):
    calls, original = [], getattr(prepare_module, name)
    monkeypatch.setattr(prepare_module, name, lambda *a, **k: calls.append(1) or original(*a, **k))
    return calls


def test_the_second_call_does_nothing_again(source, tmp_path, monkeypatch):
    first = prepare_corpus(source, tmp_path / "out", OPTIONS)
    packed, learned = count_calls(monkeypatch, "write_shards"), count_calls(monkeypatch, "_learned_tokenizer")
    second = prepare_corpus(source, tmp_path / "out", OPTIONS)
    assert second.report == first.report
    assert (packed, learned) == ([], [])
    # A changed file, an option, or damage: made again.
    (source / "03.txt").write_text("another text\n")
    changed = prepare_corpus(source, tmp_path / "out", OPTIONS)
    assert (len(packed), len(learned)) == (2, 1)
    assert changed.report["inputs_fingerprint"] != first.report["inputs_fingerprint"]
    prepare_corpus(source, tmp_path / "out", CorpusOptions(vocabulary_size=290, validation_fraction=0.2))
    assert (len(packed), len(learned)) == (4, 2)
    os.truncate(tmp_path / "out/train/tokens-00000.bin", 4)
    corpus = prepare_corpus(
        source, tmp_path / "out", CorpusOptions(vocabulary_size=290, validation_fraction=0.2)
    )
    assert (len(packed), len(learned)) == (6, 2)  # the tokenizer was whole
    assert len(corpus.text_bytes("train")) == corpus.train.num_bytes


def test_interrupted_and_called_again(source, tmp_path, monkeypatch):
    expected = prepare_corpus(source, tmp_path / "whole", OPTIONS)

    def interrupt(stage, done, total):
        if stage == "validation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(source, tmp_path / "out", OPTIONS, progress=interrupt)
    with pytest.raises(InputError, match="found no prepared corpus"):
        PreparedCorpus.open(tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["tokenizer", "train"]
    learned = count_calls(monkeypatch, "_learned_tokenizer")
    before = (tmp_path / "out/train/index.json").stat().st_mtime_ns
    corpus = prepare_corpus(source, tmp_path / "out", OPTIONS)
    assert learned == []
    assert (tmp_path / "out/train/index.json").stat().st_mtime_ns == before
    assert corpus.report == expected.report
    assert corpus.validation.all_tokens().tolist() == expected.validation.all_tokens().tolist()


PREPARE = """
import json, sys, time
from pathlib import Path
from tfgpt.data.corpus import CorpusOptions
from tfgpt.data.prepare import prepare_corpus

source, directory, name, other = map(Path, sys.argv[1:])
stages = []

def progress(stage, done, total):
    if not stages:
        # Whoever works gives the other process the time to arrive in the middle of it.
        name.touch()
        while not other.exists():
            time.sleep(0.01)
        time.sleep(0.5)
    stages.append(stage)

name.with_suffix(".here").touch()
options = CorpusOptions(vocabulary_size=300, validation_fraction=0.2)
corpus = prepare_corpus(source, directory, options, None, progress)
print(json.dumps([sorted(set(stages)), corpus.report, corpus.train.all_tokens().tolist()]))
"""


def test_processes_that_prepare_the_same_wait_for_the_first(source, tmp_path):
    """As the workers of a multi-worker job do."""
    root = Path(__file__).resolve().parents[2]
    names = [tmp_path / "a", tmp_path / "b"]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, source, tmp_path / "out", one, other.with_suffix(".here")],
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for one, other in (names, names[::-1])
    ]
    found = [json.loads(child.communicate(timeout=300)[0]) for child in children]
    assert sorted(len(stages) for stages, _, _ in found) == [0, 4]  # one did all of it, the other nothing
    assert found[0][1:] == found[1][1:]
    assert sorted(os.listdir(tmp_path / "out")) == ["report.json", "tokenizer", "train", "validation"]


def test_a_corpus_that_is_being_replaced_is_not_taken_for_one(source, tmp_path):
    given = BytePairTokenizer.train(["another text altogether " * 9], 270)
    prepare_corpus(source, tmp_path / "out", OPTIONS, given)
    (source / "39.txt").write_text("changed\n")

    def interrupt(stage, done, total):
        if stage == "validation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(source, tmp_path / "out", OPTIONS, given, interrupt)
    with pytest.raises(InputError, match="tokens of another corpus"):
        PreparedCorpus.open(tmp_path / "out")


def test_a_given_tokenizer_is_used_and_not_taken_for_a_learned_one(source, tmp_path):
    given = BytePairTokenizer.train(["another text altogether " * 9], 270)
    corpus = prepare_corpus(source, tmp_path / "out", OPTIONS, tokenizer=given)
    assert corpus.train.tokenizer_fingerprint == given.fingerprint()
    assert PreparedCorpus.open(tmp_path / "out").tokenizer.fingerprint() == given.fingerprint()
    assert prepare_corpus(source, tmp_path / "out", OPTIONS).tokenizer.fingerprint() != given.fingerprint()


def test_a_mismatched_tokenizer_is_seen(source, tmp_path):
    prepare_corpus(source, tmp_path / "out", OPTIONS)
    BytePairTokenizer.train(["x"], 257).save_pretrained(tmp_path / "out/tokenizer")
    with pytest.raises(InputError, match="expected those of"):
        PreparedCorpus.open(tmp_path / "out")


def test_max_bytes_takes_a_fixed_part(source, tmp_path):
    options = CorpusOptions(vocabulary_size=300, validation_fraction=0.2, max_bytes=6000)
    corpus = prepare_corpus(source, tmp_path / "out", options)
    assert 4000 < sum(corpus.report["bytes"].values()) <= 6000
    files = corpus_files(source)
    chosen = select_files(files, 6000)
    assert [file.name for file in chosen] == sorted(file.name for file in chosen)
    assert select_files(list(reversed(files)), 6000) == chosen
    # One file larger than the limit is cut after a line.
    (tmp_path / "one.txt").write_text("12345\n" * 100)
    options = CorpusOptions(vocabulary_size=300, max_bytes=100, validation_fraction=0.5)
    corpus = prepare_corpus(tmp_path / "one.txt", tmp_path / "cut", options)
    assert corpus.text_bytes("train") + corpus.text_bytes("validation") == b"12345\n" * 16


def test_characters_as_nanogpt(tmp_path):
    path = DATA / "tinyshakespeare/input.txt"
    if not path.is_file():
        pytest.skip(f"tinyshakespeare is not in {DATA}")
    options = CorpusOptions(tokenizer_kind="character", validation_fraction=0.1)
    corpus = prepare_corpus(path, tmp_path / "out", options)
    assert corpus.tokenizer.vocabulary_size == 65
    # nanoGPT's readme: 1,003,854 and 111,540 tokens. Ours are cut after a line; trailing spaces are gone.
    assert abs(corpus.train.num_tokens - 1_003_854) < 100
    assert abs(corpus.validation.num_tokens - 111_540) < 100
    assert PreparedCorpus.open(tmp_path / "out").tokenizer.encode("\n !") == [0, 1, 2]


def test_errors(source, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/a.txt").write_text(" \n")
    for wrong, message in (
        (tmp_path / "absent", "found nothing at"),
        (tmp_path / "empty", "found no text in"),
    ):
        with pytest.raises(InputError, match=message):
            prepare_corpus(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for options, message in (
        ({"tokenizer_kind": "word"}, "found tokenizer_kind 'word'"),
        ({"validation_fraction": 1.5}, "found validation_fraction"),
        ({"max_bytes": 0}, "found max_bytes"),
    ):
        with pytest.raises(InputError, match=message):
            CorpusOptions(**options)


def test_no_tensorflow():
    program = (
        "import sys, tfgpt.data.prepare, tfgpt.data.dataset, tfgpt.evaluation.baselines\n"
        "assert not {'tensorflow', 'keras', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names():
    import tfgpt.data

    for name in tfgpt.data.__all__:
        assert getattr(tfgpt.data, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = tfgpt.data.absent
