"""Stop strings and streamed text: independent of how the text is cut, and never shown too early."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt.generation.stopping import RowText, StopStrings


def stream(pieces, stop):
    """(shown pieces, whether a stop string was found), as the generate loop uses the class."""
    watcher = StopStrings(stop)
    shown = []
    for piece in pieces:
        shown.append(watcher.push(piece))
        if watcher.found:
            return shown, True
    shown.append(watcher.flush())
    return shown, False


def text_before_stop(text, stop):
    """The definition: grow the text by single characters; the first stop string it ends with cuts it."""
    for end in range(1, len(text) + 1):
        matched = [item for item in stop if text[:end].endswith(item)]
        if matched:
            return text[: end - max(map(len, matched))], True
    return text, False


def test_a_stop_string_over_three_pieces_is_never_shown():
    assert stream(["Hello", " us", "e", "r: x"], ["user:"]) == (["Hello", " ", "", ""], True)


def test_what_looked_like_a_stop_is_shown_as_soon_as_it_is_not():
    assert stream(["a us", "ing", " b"], ["user:"]) == (["a ", "using", " b", ""], False)


def test_what_is_held_at_the_end_is_flushed():
    assert stream(["a us"], ["user:"]) == (["a ", "us"], False)


def test_the_stop_completed_first_wins_whatever_the_pieces():
    for pieces in (["xabcd"], ["xab", "cd"], ["x", "a", "b", "c", "d"]):
        shown, found = stream(pieces, ["abcd", "bc"])
        assert ("".join(shown), found) == ("xa", True)


def test_an_overlapping_false_start_does_not_hide_a_stop():
    shown, found = stream(["aa", "ab"], ["aab"])
    assert ("".join(shown), found) == ("a", True)


@settings(deadline=None)
@given(
    st.text("abc", max_size=24),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 24), max_size=8),
)
def test_equal_to_the_definition_for_every_cut(text, stop, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    shown, found = stream(pieces, stop)
    assert ("".join(shown), found) == text_before_stop(text, stop)


@settings(deadline=None)
@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=3))
def test_no_more_is_held_back_than_a_proper_beginning_of_the_stop(text, stop):
    watcher = StopStrings([stop])
    shown = ""
    for place, character in enumerate(text):
        shown += watcher.push(character)
        if watcher.found:
            return
        held = text[len(shown) : place + 1]
        assert stop.startswith(held) and len(held) < len(stop)


class Bytes:
    """A tokenizer of single UTF-8 bytes."""

    def stream_decoder(self):
        import codecs

        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        class Stream:
            push = staticmethod(lambda token_id: decoder.decode(bytes([token_id])))
            flush = staticmethod(lambda: decoder.decode(b"", final=True))

        return Stream()


@pytest.mark.parametrize("text", ["héllo wörld", "日本語です", "👩‍👩‍👧 ok", ""])
def test_row_text_of_multibyte_characters(text):
    row = RowText(Bytes(), ())
    pieces = [row.push(byte) for byte in text.encode()] + [row.finish()]
    assert "".join(pieces) == row.text == text
    assert all("�" not in piece for piece in pieces)


def test_row_text_ends_in_the_middle_of_a_character():
    row = RowText(Bytes(), ("never",))
    pieces = [row.push(byte) for byte in "aé".encode()[:-1]] + [row.finish()]
    assert pieces == ["a", "", "�"]
    assert row.text == "a�"


def test_row_text_stops_on_a_multibyte_stop_string():
    row = RowText(Bytes(), ("。次",))
    pieces = [row.push(byte) for byte in "はい。次".encode()]
    assert row.stopped and row.text == "はい" == "".join(pieces)
    assert row.finish() == ""


def test_without_a_tokenizer_there_is_no_text():
    row = RowText(None, ())
    assert (row.push(3), row.finish(), row.text) == ("", "", None)
