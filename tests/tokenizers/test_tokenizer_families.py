"""The tokenizer of every family against transformers: recorded for small ones, live for large ones."""

import json
import random
import unicodedata

import pytest

from tfgpt.errors import InputError
from tfgpt.generation.stopping import RowText
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.end_of_word import EndOfWordTokenizer
from tfgpt.tokenizers.loading import load_tokenizer

NAMES = ("gpt1", "gptj", "gpt_neox", "gpt_oss")
NUM_STRINGS = 10_000


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def small(name, fixtures_directory):
    """The directory of a family's recorded tokenizer."""
    return fixtures_directory / "tokenizers" / name


def stream(tokenizer, token_ids):
    decoder = tokenizer.stream_decoder()
    return [*(decoder.push(token_id) for token_id in token_ids), decoder.flush()]


def test_recorded(small):
    tokenizer = load_tokenizer(small)
    records = json.loads((small / "records.json").read_text())
    assert (len(records["encoded"]), len(records["decoded"])) == (87, 40)
    for record in records["encoded"]:
        assert tokenizer.encode(record["text"]) == record["ids"], record["text"]
        assert tokenizer.encode(record["text"], allow_special=False) == record["plain_ids"], record["text"]
    for record in records["decoded"]:
        assert tokenizer.decode(record["ids"]) == record["text"], record
        assert "".join(stream(tokenizer, record["ids"])) == record["text"], record
        assert tokenizer.decode(record["ids"], skip_special_tokens=True) == record["skipped"], record


def test_live(name, families, data_directory, tmp_path):
    """10,000 random strings on a vocabulary of real size: ids, decoding, random ids."""
    transformers = pytest.importorskip("transformers")
    if families.FAMILIES[name].is_byte_level:
        vocabulary = families.gpt2_vocabulary(data_directory / "gpt2_bpe")
    else:
        corpus = (data_directory / "tinyshakespeare/input.txt").read_text().split("\n\n")
        vocabulary = families.train_end_of_word([*corpus, *families.record_tokenizer.CASES], 8000)
    directory = families.write(name, *vocabulary, tmp_path)
    tokenizer, reference = load_tokenizer(directory), transformers.AutoTokenizer.from_pretrained(directory)
    generator = random.Random(11)
    texts = families.strings(name, generator, NUM_STRINGS)
    expected = reference(texts).input_ids
    found = tokenizer.encode_batch(texts)
    for text, ids, expected_ids in zip(texts, found, expected, strict=True):
        assert ids == expected_ids, text
    plain = tokenizer.encode_batch(texts, allow_special=False)
    assert plain == reference(texts, split_special_tokens=True).input_ids
    assert plain != found
    for text, ids in zip(texts, found, strict=True):
        decoded = tokenizer.decode(ids)
        assert decoded == reference.decode(ids), text
        if name in ("gptj", "gpt_oss") or (name == "gpt_neox" and unicodedata.is_normalized("NFC", text)):
            assert decoded == text
    for _ in range(1000):
        ids = [generator.randrange(len(reference)) for _ in range(generator.randint(0, 20))]
        text = tokenizer.decode(ids)
        assert text == reference.decode(ids), ids
        assert "".join(stream(tokenizer, ids)) == text
        skipped = tokenizer.decode(ids, skip_special_tokens=True)
        assert skipped == reference.decode(ids, skip_special_tokens=True), ids


def test_saved_files_give_the_same_ids_in_transformers(small, name, families, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(small)
    tokenizer.save_pretrained(tmp_path)
    again, reference = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    original = transformers.AutoTokenizer.from_pretrained(small)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert reference.special_tokens_map == original.special_tokens_map
    assert reference.eos_token_id == tokenizer.end_of_text_id
    texts = families.strings(name, random.Random(5), 300)
    assert reference(texts).input_ids == tokenizer.encode_batch(texts) == again.encode_batch(texts)


def test_published_structure(fixtures_directory):
    """Which token ends a text, and which are special, as each family's files say."""
    found = {name: load_tokenizer(fixtures_directory / "tokenizers" / name) for name in NAMES}
    ends = {
        name: None if each.end_of_text_id is None else each.backend.id_to_token(each.end_of_text_id)
        for name, each in found.items()
    }
    end = "<|endoftext|>"
    assert ends == {"gpt1": None, "gptj": end, "gpt_neox": end, "gpt_oss": "<|return|>"}
    assert {name: len(each.special_token_ids) for name, each in found.items()} == {
        "gpt1": 1, "gptj": 1, "gpt_neox": 2, "gpt_oss": 17,
    }  # fmt: skip
    assert [type(found[name]) for name in NAMES] == [EndOfWordTokenizer, *[BytePairTokenizer] * 3]
    assert all(each.encodes_lines_apart for each in found.values())


@pytest.mark.parametrize(
    "names", [("vocab.json", "merges.txt"), ("encoder_bpe_40000.json", "vocab_40000.bpe")]
)
def test_gpt1_files_of_every_naming(fixtures_directory, gpt1, tmp_path, names):
    model = json.loads((fixtures_directory / "tokenizers/gpt1/tokenizer.json").read_text())["model"]
    lines = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (tmp_path / names[0]).write_text(json.dumps(model["vocab"]))
    (tmp_path / names[1]).write_text(f"#version: 0.2\n{lines}")
    assert isinstance(load_tokenizer(tmp_path), EndOfWordTokenizer)
    assert load_tokenizer(tmp_path).fingerprint() == gpt1.fingerprint()


def test_byte_level_markup_is_not_taken_for_ends_of_words(tmp_path):
    """A byte-level vocabulary may hold "a</w>", but then merges make it."""
    tokens = ["<", "/", "w", ">", "a", "</", "w>", "</w>", "a</w>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("< /\nw >\n</ w>\na </w>\n")
    assert isinstance(load_tokenizer(tmp_path), BytePairTokenizer)
    (tmp_path / "merges.txt").write_text("< /\nw >\n")
    assert isinstance(load_tokenizer(tmp_path), EndOfWordTokenizer)


def test_gpt1_spaces_wait_for_the_next_word(gpt1):
    ids = gpt1.encode("The  Parser: don't!")
    assert gpt1.decode(ids) == "the parser : don ' t !"
    pieces = stream(gpt1, ids)
    assert pieces[-1] == ""  # the last word's space never comes
    assert not any(piece.endswith(" ") for piece in pieces)
    joined = b"".join(gpt1.token_bytes[token_id] for token_id in ids).decode()
    assert joined == gpt1.decode(ids) + " "


def test_gpt1_stop_strings(gpt1):
    ids = gpt1.encode("one two three")
    row = RowText(gpt1, ["two "])
    for token_id in ids:
        row.push(token_id)
        if row.stopped:
            break
    assert (row.stopped, row.text) == (True, "one ")
    row = RowText(gpt1, ["three "])  # the last space never comes
    for token_id in ids:
        row.push(token_id)
    row.finish()
    assert (row.stopped, row.text) == (False, "one two three")


def test_gpt1_unknown_characters(gpt1):
    unknown = gpt1.backend.token_to_id("<unk>")
    assert gpt1.encode("\u1234") == [unknown]
    assert gpt1.decode([unknown]) == "<unk>"
    assert gpt1.decode([unknown], skip_special_tokens=True) == ""
    with pytest.raises(InputError, match="found token id -1"):
        gpt1.decode([-1])
    with pytest.raises(InputError, match="found token id 9999"):
        gpt1.decode([9999])


def edited(source, target, **configuration):
    """A copy of a tokenizer directory with other values in tokenizer_config.json."""
    target.mkdir()
    (target / "tokenizer.json").write_text((source / "tokenizer.json").read_text())
    values = json.loads((source / "tokenizer_config.json").read_text()) | configuration
    (target / "tokenizer_config.json").write_text(json.dumps(values))
    return target


def test_settings_that_change_ids(fixtures_directory, tmp_path):
    """What transformers does to the backend when it loads is done here, too."""
    transformers = pytest.importorskip("transformers")
    source = fixtures_directory / "tokenizers" / "gptj"
    cases = {
        "prefix": {"add_prefix_space": True},
        "named": {"pad_token": "<|extratoken_7|>"},
        "extra": {"extra_special_tokens": ["<|extratoken_9|>"]},
        "older": {"additional_special_tokens": ["<|extratoken_9|>"]},
        "cleaned": {"clean_up_tokenization_spaces": True},
    }
    text = "a , b's <|extratoken_7|> <|extratoken_9|>\u0338 the end ."
    for name, configuration in cases.items():
        directory = edited(source, tmp_path / name, **configuration)
        tokenizer, reference = (
            load_tokenizer(directory),
            transformers.AutoTokenizer.from_pretrained(directory),
        )
        ids = tokenizer.encode(text)
        assert ids == reference(text).input_ids, name
        added = tokenizer.backend.get_added_tokens_decoder()
        assert repr(added) == repr(reference.added_tokens_decoder), name  # the flags of each
        assert (
            tokenizer.encode(text, allow_special=False)
            == reference(text, split_special_tokens=True).input_ids
        )
        for skip in (False, True):
            decoded = tokenizer.decode(ids, skip_special_tokens=skip)
            assert decoded == reference.decode(ids, skip_special_tokens=skip), name


def test_added_tokens_of_older_directories(fixtures_directory, tmp_path):
    """GPT-J's vocab.json, merges.txt and added_tokens.json: the extra tokens are not special."""
    transformers = pytest.importorskip("transformers")
    source = fixtures_directory / "tokenizers" / "gptj"
    state = json.loads((source / "tokenizer.json").read_text())
    model = state["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in model["merges"]))
    extra = {t["content"]: t["id"] for t in state["added_tokens"] if not t["special"]}
    (tmp_path / "added_tokens.json").write_text(json.dumps(extra))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    tokenizer, reference = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "a<|extratoken_1|> <|endoftext|><|extratoken_143|>"
    assert tokenizer.encode(text) == reference(text).input_ids == load_tokenizer(source).encode(text)
    assert len(tokenizer.special_token_ids) == 1


def test_tokens_around_every_text_are_refused(fixtures_directory, tmp_path):
    source = fixtures_directory / "tokenizers" / "gptj"
    directory, end = edited(source, tmp_path / "post"), "<|endoftext|>"
    state = json.loads((directory / "tokenizer.json").read_text())
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": end, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {end: {"id": end, "ids": [420], "tokens": [end]}},
    }
    (directory / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="puts tokens around every text"):
        load_tokenizer(directory)


@pytest.mark.parametrize(
    "values",
    [
        {"eos_token": 3},
        {"added_tokens_decoder": {"x": {"content": "a"}}},
        {"added_tokens_decoder": {"1": "a"}},
        {"extra_special_tokens": 5},
        {"chat_template": [{"name": "default"}]},
        {"chat_template": {"default": 1}},
    ],
)
def test_settings_of_another_kind(fixtures_directory, tmp_path, values):
    directory = edited(fixtures_directory / "tokenizers" / "gptj", tmp_path / "bad", **values)
    with pytest.raises(InputError, match=r"tokenizer_config\.json that are not a tokenizer's") as caught:
        load_tokenizer(directory)
    assert "\n" not in str(caught.value)
