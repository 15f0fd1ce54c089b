"""Cleaning: exactly the stated changes, and no others."""

import pytest

from tfgpt.data.cleaning import CleaningOptions, CleaningReport, clean_documents, clean_text
from tfgpt.data.text import Document
from tfgpt.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\n\r\r\n", "a\nb\nc\n\n\n"),
        ("a \t\n  b\t", "a\n  b"),
        ("\x00a\x1b[0m\x7f\x85\x0cb\td", "a[0mb\td"),
        ("x\ud800y", "xy"),
        # Left exactly as they are: composed and decomposed forms, exotic spaces, joiners, private use.
        (
            "e\u0301 \u00e9 \u00a0\u3000\u200d\ufeff\u2028\ue000 ﬁ",
            "e\u0301 \u00e9 \u00a0\u3000\u200d\ufeff\u2028\ue000 ﬁ",
        ),
        ("end\u00a0\n", "end\u00a0\n"),
    ],
)
def test_clean_text(text, expected):
    assert clean_text(text, CleaningOptions(), CleaningReport()) == expected
    off = CleaningOptions(newlines=False, control_characters=False, trailing_spaces=False)
    assert clean_text(text, off, CleaningReport()) == text


def test_documents_are_counted():
    texts = ["one\r\n", "two", "one\n", "\x00 ", "x" * 9, "é" * 5, "y\x01 \n"]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    report = CleaningReport()
    cleaned = list(clean_documents(iter(documents), CleaningOptions(max_document_bytes=9), report))
    assert [(document.name, document.text) for document in cleaned] == [
        ("0", "one\n"),
        ("1", "two"),
        ("4", "x" * 9),
        ("6", "y\n"),
    ]
    assert report.as_dict() == {
        "control_characters_removed": 2,
        "documents_with_newlines_changed": 1,
        "trailing_space_bytes_removed": 2,
        "duplicates_dropped": 1,
        "too_long_dropped": 1,  # ten bytes, though five characters
        "empty_dropped": 1,
        "documents": 4,
        "bytes": 4 + 3 + 9 + 2,
    }
    everything = CleaningOptions(duplicates=False)
    assert len(list(clean_documents(iter(documents), everything, CleaningReport()))) == 6


def test_bad_limit():
    with pytest.raises(InputError, match="found max_document_bytes 0"):
        CleaningOptions(max_document_bytes=0)
