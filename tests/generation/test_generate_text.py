"""The loop with real byte-level BPE tokenizers: text in, streamed text out."""

import os
from pathlib import Path

import numpy as np
import pytest

from tfgpt.generation.loop import generate
from tfgpt.generation.options import GenerationOptions
from tfgpt.tokenizers.byte_pair import BytePairTokenizer

DATA = Path(os.environ.get("TFGPT_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
TEXTS = [
    "naïve café — 日本語のテキスト",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈!\n",
    "Ελληνικά, русский, עברית",
    "plain words, twice twice",
]


class Scripted:
    """Says the given tokens, whatever the prompt."""

    context_length = 1024

    def __init__(self, token_ids, vocabulary_size):
        self.vocabulary_size = vocabulary_size
        self.token_ids = token_ids

    def prefill(self, token_ids, mask, capacity):
        self.num_rows, self.said = len(token_ids), 0
        return self._logits()

    def step(self, token_ids):
        self.said += 1
        return self._logits()

    def keep(self, rows):
        self.num_rows = len(rows)
        return rows

    def _logits(self):
        logits = np.zeros((self.num_rows, self.vocabulary_size), np.float32)
        logits[:, self.token_ids[self.said]] = 1
        return logits


@pytest.fixture(scope="module", params=["GPT-2's", "trained"])
def tokenizer(request):
    if request.param == "trained":
        return BytePairTokenizer.train(["twice the words, twice the café"] * 10, vocabulary_size=280)
    if not (DATA / "gpt2_bpe").is_dir():
        pytest.skip(f"no {DATA / 'gpt2_bpe'}: GPT-2's vocabulary is not part of the project")
    return BytePairTokenizer.from_pretrained(DATA / "gpt2_bpe")


def say(tokenizer, token_ids, **settings):
    seen = []
    settings = {"max_new_tokens": len(token_ids), **settings}
    decoder = Scripted(token_ids, tokenizer.vocabulary_size)
    results = generate(
        decoder,
        ["a", "two words"],
        GenerationOptions(**settings),
        tokenizer,
        lambda *event: seen.append(event),
    )
    for row, item in enumerate(results):
        assert "".join(piece for index, _, piece in seen if index == row) == item.text
    assert results[0].text == results[1].text
    return results[0], [piece for index, _, piece in seen if index == 0]


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_joins_to_the_text_and_never_holds_half_a_character(tokenizer, text):
    result, pieces = say(tokenizer, tokenizer.encode(text))
    assert result.text == text and result.finish_reason == "length"
    assert not any("�" in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_cut_anywhere_is_the_decoded_text(tokenizer, text):
    token_ids = tokenizer.encode(text)
    for count in range(1, len(token_ids)):
        result, _ = say(tokenizer, token_ids, max_new_tokens=count)
        assert result.text == tokenizer.decode(token_ids[:count])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_string_anywhere_cuts_the_text_before_it(tokenizer, text, length):
    token_ids = tokenizer.encode(text)
    for start in range(len(text) - length):
        stop = text[start : start + length]
        result, _ = say(tokenizer, token_ids, stop=stop)
        assert result.text == text[: text.find(stop)]
        assert result.finish_reason == "stop"


def test_end_of_text_ends_a_row_and_is_not_text(tokenizer):
    token_ids = [*tokenizer.encode("twice"), tokenizer.end_of_text_id, *tokenizer.encode(" more")]
    result, _ = say(tokenizer, token_ids)
    assert (result.text, result.finish_reason) == ("twice", "stop")
    assert result.token_ids[-1] == tokenizer.end_of_text_id
    assert generate(Scripted(token_ids, tokenizer.vocabulary_size), "", None, tokenizer)[0].prompt_ids == (
        tokenizer.end_of_text_id,
    )
