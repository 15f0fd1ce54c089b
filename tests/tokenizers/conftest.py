"""What several tests of tokenizers share."""

import pytest

from tfgpt.tokenizers.loading import load_tokenizer


@pytest.fixture(scope="session")
def gpt1(fixtures_directory):
    """The recorded tokenizer of GPT-1; nothing may change it."""
    return load_tokenizer(fixtures_directory / "tokenizers" / "gpt1")


@pytest.fixture
def families(fixture_module):
    """tests/fixtures/tokenizer_families.py."""
    return fixture_module("tokenizer_families")
