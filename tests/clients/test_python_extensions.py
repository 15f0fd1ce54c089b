"""tokenizer.onnx and detokenizer.onnx in onnxruntime-extensions: ids equal to the `tokenizers` library's."""

import json
import random

import pytest
import tokenizers
from tfgpt_export.tokenizer_graph import GRAPHS, refusal, write_tokenizer_graphs

from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.loading import load_tokenizer

NUM_STRINGS = 3000
# Where the operator (0.15.2) reads a character otherwise; see docs/clients.md.
MISREAD = "\0\x85"


@pytest.fixture
def fixture_modules(fixture_module):
    return fixture_module("record_tokenizer"), fixture_module("tokenizer_families")


@pytest.fixture(scope="module")
def run(in_client, tmp_path_factory):
    """run(tokenizer, texts) -> what the program printed for its graphs."""

    def call(tokenizer, texts, directory=None):
        folder = tmp_path_factory.mktemp("extensions")
        if directory is None:
            directory = folder
            assert write_tokenizer_graphs(tokenizer, directory) is None
        request = folder / "request.json"
        ids = [tokenizer.encode(text) for text in texts]
        request.write_text(json.dumps({"texts": texts, "ids": ids}))
        return in_client("extensions", "extensions_tokenizer.py", directory, request), ids

    return call


def strings(fixture_modules, pieces=()):
    record_tokenizer, _ = fixture_modules
    generator = random.Random(5)
    pieces = (*record_tokenizer.PIECES, *pieces)
    made = [record_tokenizer.random_string(generator, 20, pieces) for _ in range(NUM_STRINGS)]
    return [text.translate(dict.fromkeys(map(ord, MISREAD))) for text in (*record_tokenizer.CASES, *made)]


def check(found, texts, ids):
    wrong = [
        (text, given, wanted)
        for text, given, wanted in zip(texts, found["ids"], ids, strict=True)
        if given != wanted
    ]
    assert not wrong, f"{len(wrong)} of {len(texts)}: {wrong[:3]}"
    assert found["texts"] == texts


@pytest.mark.client("extensions")
def test_the_graphs_of_the_export(run, client_export, fixture_modules):
    texts = strings(fixture_modules)
    found, ids = run(load_tokenizer(client_export), texts, client_export)
    check(found, texts, ids)
    for row, mask, wanted in zip(found["batch"], found["mask"], ids[:8], strict=True):
        assert row[: len(wanted)] == wanted
        assert mask == [1] * len(wanted) + [0] * (len(row) - len(wanted))


@pytest.mark.client("extensions")
def test_gpt2_vocabulary(run, data_directory, fixture_modules):
    tokenizer = load_tokenizer(data_directory / "gpt2_bpe")
    texts = strings(fixture_modules)
    assert sum("<|endoftext|>" in text for text in texts) > 300
    found, ids = run(tokenizer, texts)
    check(found, texts, ids)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gpt1", "byte-level"),
        ("gptj", "extratoken_1"),
        ("gpt_neox", "normalize"),
        ("gpt_oss", "regular expression"),
    ],
)
def test_other_pipelines_get_no_files_and_a_reason(fixtures_directory, tmp_path, family, reason):
    tokenizer = load_tokenizer(fixtures_directory / "tokenizers" / family)
    assert reason in write_tokenizer_graphs(tokenizer, tmp_path)
    assert not any((tmp_path / name).exists() for name in GRAPHS)


def changed(tokenizer, **parts):
    state = json.loads(tokenizer.backend.to_str())
    for name, part in parts.items():
        state[name] = {**state[name], **part} if isinstance(part, dict) else part
    return BytePairTokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)))


def test_what_the_operators_cannot_be_is_refused(client_tokenizer):
    tokenizer = client_tokenizer
    assert refusal(tokenizer) is None
    assert "space" in refusal(changed(tokenizer, pre_tokenizer={"add_prefix_space": True}))
    merges = json.loads(tokenizer.backend.to_str())["model"]["merges"]
    assert "do not make the token" in refusal(changed(tokenizer, model={"merges": merges[1:]}))
