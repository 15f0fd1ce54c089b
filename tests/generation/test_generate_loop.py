"""The generate loop over a decoder whose every logit is known."""

import codecs
import math

import numpy as np
import pytest

from tfgpt.errors import InputError
from tfgpt.generation.loop import generate
from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.padding import left_pad, position_ids


class HistoryDecoder:
    """Logits are a fixed function of a row's own real tokens: what every correct decoder must look like."""

    def __init__(self, vocabulary_size=17, context_length=32, drops=True, following=None):
        self.vocabulary_size = vocabulary_size
        self.context_length = context_length
        self.drops = drops
        self.following = following
        self.rows = []
        self.widths = []

    def prefill(self, token_ids, mask, capacity):
        assert token_ids.shape == mask.shape and token_ids.dtype == mask.dtype == np.int64
        self.capacity = capacity
        self.columns = token_ids.shape[1]
        self.rows = [list(row[real == 1]) for row, real in zip(token_ids, mask, strict=True)]
        return self._logits()

    def step(self, token_ids):
        assert token_ids.shape == (len(self.rows),)
        self.columns += 1
        assert self.columns < self.capacity
        for row, token_id in zip(self.rows, token_ids, strict=True):
            row.append(token_id)
        return self._logits()

    def keep(self, rows):
        if not self.drops:
            return np.arange(len(self.rows))
        # Any order is allowed.
        self.rows = [self.rows[row] for row in rows[::-1]]
        return rows[::-1]

    def _logits(self):
        self.widths.append(len(self.rows))
        return np.stack([self._row_logits(row) for row in self.rows])

    def _row_logits(self, row):
        if self.following is not None:
            logits = np.zeros(self.vocabulary_size, np.float32)
            logits[self.following(row)] = 10.0
            return logits
        seed = [int(item) for item in row]
        return np.random.default_rng(seed).normal(size=self.vocabulary_size).astype(np.float32) * 3


def counting(**settings):
    """A decoder whose next token is the last one plus 1."""
    return HistoryDecoder(following=lambda row: (row[-1] + 1) % 17, **settings)


class Letters:
    """Token 0 is end of text; token n is the n-th letter, except those of `table`, which are bytes."""

    end_of_text_id = 0

    def __init__(self, table=None):
        self.table = table or {}

    def encode(self, text):
        return [ord(letter) - ord("a") + 1 for letter in text]

    def stream_decoder(self):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        letters = self

        class Stream:
            def push(self, token_id):
                return decoder.decode(letters.table.get(token_id, bytes([ord("a") + token_id - 1])))

            def flush(self):
                return decoder.decode(b"", final=True)

        return Stream()


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [2, 2]]


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(max_new_tokens=9),
        GenerationOptions(max_new_tokens=9, temperature=1.0, seed=11),
        GenerationOptions(max_new_tokens=9, temperature=0.7, top_k=5, top_p=0.9, min_p=0.02, seed=3),
        GenerationOptions(max_new_tokens=9, temperature=1.5, repetition_penalty=1.4, end_of_text_ids=(3, 5)),
    ],
)
@pytest.mark.parametrize("drops", [True, False])
def test_a_prompt_gives_the_same_tokens_alone_and_in_a_batch(options, drops):
    together = generate(HistoryDecoder(drops=drops), PROMPTS, options)
    alone = [generate(HistoryDecoder(), prompt, options)[0] for prompt in PROMPTS]
    assert together == alone
    assert len({item.token_ids for item in alone}) == len(PROMPTS)


def test_an_int_seed_gives_equal_prompts_equal_tokens_and_a_list_gives_each_its_own():
    sampled = GenerationOptions(temperature=1.0, max_new_tokens=12, seed=5)
    first, second = generate(HistoryDecoder(), [[1, 2], [1, 2]], sampled)
    assert first == second
    mixed = GenerationOptions(temperature=1.0, max_new_tokens=12, seed=[5, 6])
    one, other = generate(HistoryDecoder(), [[1, 2], [1, 2]], mixed)
    assert one == first and other != first
    with pytest.raises(InputError, match="found 2 seeds for 1 prompts"):
        generate(HistoryDecoder(), [1, 2], mixed)


def test_finished_rows_are_dropped_and_the_others_go_on():
    decoder = counting()
    results = generate(
        decoder, [[14], [10], [12]], GenerationOptions(max_new_tokens=9, end_of_text_ids=(15,))
    )
    assert [item.token_ids for item in results] == [(15,), (11, 12, 13, 14, 15), (13, 14, 15)]
    assert decoder.widths == [3, 2, 2, 1, 1]
    kept = counting(drops=False)
    assert (
        generate(kept, [[14], [10], [12]], GenerationOptions(max_new_tokens=9, end_of_text_ids=(15,)))
        == results
    )
    assert kept.widths == [3, 3, 3, 3, 3]


def test_finish_reasons():
    end = GenerationOptions(max_new_tokens=3, end_of_text_ids=(4,))
    by_end, by_count = generate(counting(), [[1], [5]], end)
    assert (by_end.token_ids, by_end.finish_reason) == ((2, 3, 4), "stop")
    assert (by_count.token_ids, by_count.finish_reason) == ((6, 7, 8), "length")


def test_the_context_ends_each_row_by_its_own_length():
    # Eight tokens fit: the longer prompt leaves room for 2, the shorter, padded in the batch, still for 7.
    long, short = generate(counting(context_length=8), [[1, 2, 3, 4, 5, 6], [1]], GenerationOptions())
    assert (long.token_ids, long.finish_reason) == ((7, 8), "length")
    assert (short.token_ids, short.finish_reason) == ((2, 3, 4, 5, 6, 7, 8), "length")


def test_stop_string_over_token_boundaries_and_streaming():
    seen = []
    stop = GenerationOptions(max_new_tokens=9, stop=("de", "zz"))
    result = generate(counting(), ["ab", "f"], stop, Letters(), lambda *event: seen.append(event))
    assert (result[0].text, result[0].token_ids, result[0].finish_reason) == ("c", (3, 4, 5), "stop")
    assert (result[1].text, result[1].finish_reason) == ("ghijklmno", "length")
    assert [event for event in seen if event[0] == 0] == [(0, 3, "c"), (0, 4, ""), (0, 5, "")]
    for row, item in enumerate(result):
        assert "".join(piece for index, _, piece in seen if index == row) == item.text
        assert tuple(token for index, token, _ in seen if index == row) == item.token_ids


def test_text_held_back_for_a_stop_comes_when_the_row_ends():
    options = GenerationOptions(max_new_tokens=2, stop=("cdefg",))
    seen = []
    (result,) = generate(counting(), "ab", options, Letters(), lambda *event: seen.append(event))
    assert seen == [(0, 3, ""), (0, 4, "cd")]
    assert (result.text, result.finish_reason) == ("cd", "length")


def test_end_of_text_is_a_token_but_no_text_and_flushes():
    # Letter 16 is followed by 0, end of text; its own byte begins a character that never ends.
    seen = []
    tokenizer = Letters({16: "é".encode()[:1]})
    (result,) = generate(
        counting(), [14], GenerationOptions(stop=("ox",)), tokenizer, lambda *event: seen.append(event)
    )
    assert result.token_ids == (15, 16, 0)
    assert result.finish_reason == "stop"
    assert seen == [(0, 15, ""), (0, 16, ""), (0, 0, "o�")]
    assert result.text == "o�"


def test_streamed_multibyte_text_joins_to_the_final_text():
    table = dict(zip(range(1, 17), [bytes([item]) for item in "日本語é👍x".encode()], strict=False))
    seen = []
    (result,) = generate(
        counting(),
        [1],
        GenerationOptions(max_new_tokens=14),
        Letters(table),
        lambda *event: seen.append(event),
    )
    expected = b"".join(table[item] for item in result.token_ids).decode(errors="replace")
    assert "".join(piece for _, _, piece in seen) == result.text == expected
    assert "語é" in expected


def test_logprobs_are_those_of_the_model_before_any_filter():
    options = GenerationOptions(max_new_tokens=3, logprobs=True)
    expected = 10 - math.log(math.exp(10) + 16)
    (plain,) = generate(counting(), [1], options)
    assert plain.logprobs == pytest.approx([expected] * 3, abs=1e-6)
    filtered = GenerationOptions(max_new_tokens=3, logprobs=True, temperature=3.0, top_k=1)
    assert generate(counting(), [1], filtered)[0].logprobs == plain.logprobs
    assert generate(counting(), [1])[0].logprobs is None


def test_prompts_in_every_form():
    options = GenerationOptions(max_new_tokens=2)
    expected = generate(counting(), [[1, 2]], options, Letters())
    assert expected[0].prompt_ids == (1, 2)
    assert generate(counting(), "ab", options, Letters()) == expected
    assert generate(counting(), ["ab"], options, Letters()) == expected
    assert generate(counting(), [1, 2], options, Letters()) == expected
    assert generate(counting(), np.array([1, 2]), options, Letters()) == expected
    assert generate(counting(), np.array([[1, 2]]), options, Letters()) == expected
    assert generate(counting(), [np.array([1, 2])], options, Letters()) == expected
    assert generate(counting(), ["ab", [1, 2]], options, Letters()) == expected * 2
    assert generate(counting(), [], options, Letters()) == []


def test_an_empty_prompt_starts_from_end_of_text():
    (result,) = generate(counting(), "", GenerationOptions(max_new_tokens=2), Letters())
    assert (result.prompt_ids, result.token_ids) == ((0,), (1, 2))


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[]], {}, "found an empty prompt 0 and no end-of-text id"),
        ([[1], [1] * 40], {}, "found 40 tokens in prompt 1, expected at most 31.*context holds 32"),
        ([[1] * 32], {}, "found 32 tokens in prompt 0, expected at most 31"),
        ([[1], [3, 17]], {}, "found token id 17 in prompt 1, expected 0 to 16"),
        ([[-1]], {}, "found token id -1 in prompt 0"),
        (["text"], {}, "found text for prompt 0 but no tokenizer"),
        ([[1.5]], {}, "found list for prompt 0"),
        (7, {}, "found int for prompts"),
        ([[1]], {"stop": ("x",)}, "found stop strings but no tokenizer"),
    ],
)
def test_wrong_use_is_one_clear_line(prompts, options, message):
    with pytest.raises(InputError, match=message) as caught:
        generate(HistoryDecoder(), prompts, GenerationOptions(**options))
    assert "\n" not in str(caught.value)


def test_broken_logits_are_named():
    class Broken(HistoryDecoder):
        def _row_logits(self, row):
            return np.full(17, np.nan, np.float32) if len(row) == 3 else super()._row_logits(row)

    with pytest.raises(FloatingPointError, match="prompt 1 at new token 1"):
        generate(Broken(), [[1, 2, 3, 4], [1, 2]])


def test_left_padding_and_positions():
    token_ids, mask = left_pad([[5, 6, 7], [8]])
    np.testing.assert_array_equal(token_ids, [[5, 6, 7], [0, 0, 8]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(position_ids(mask), [[0, 1, 2], [0, 0, 0]])
