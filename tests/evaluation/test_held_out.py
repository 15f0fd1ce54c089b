"""Windows of held-out text: where they lie, and which text is taken."""

import numpy as np
import pytest

from tfgpt.data.packing import write_shards
from tfgpt.data.text import Document
from tfgpt.errors import InputError
from tfgpt.evaluation.held_out import spread_windows, windows_beside, windows_of_text


@pytest.fixture
def tokenizer():
    from tfgpt.tokenizers.byte_pair import BytePairTokenizer

    return BytePairTokenizer.train(["one two three four"] * 4, vocabulary_size=270)


@pytest.fixture
def model_dir(tokenizer, tmp_path):
    """config.json and a tokenizer are all that is read."""
    from tfgpt.checkpoints.directory import write_model_config
    from tfgpt.families.registry import family

    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    sizes = {"vocabulary_size": 270, "context_length": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 16}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    write_model_config(family("gpt2").config_of("124m", **sizes), folder)
    tokenizer.save_pretrained(folder, 16)
    return folder


def shards_of(text, tokenizer, folder):
    return write_shards([Document("a", text)], tokenizer, folder, inputs_fingerprint="x")


def test_windows_are_spread_from_the_first_token_to_the_last(tokenizer, tmp_path):
    shards = shards_of("one two three four five " * 40, tokenizer, tmp_path / "shards")
    windows = spread_windows(shards, context_length=8, count=5)
    assert windows.shape == (5, 8) and windows.dtype == np.int64
    np.testing.assert_array_equal(windows[0], shards.window(0, 8))
    np.testing.assert_array_equal(windows[-1], shards.window(shards.num_tokens - 8, 8))


def test_a_short_text_is_one_window_and_nothing_is_an_error(tokenizer, tmp_path):
    shards = shards_of("one two", tokenizer, tmp_path / "shards")
    assert spread_windows(shards, context_length=64).shape == (1, shards.num_tokens)
    with pytest.raises(InputError, match="expected at least 2"):
        spread_windows(shards, context_length=1)


def test_any_text_by_the_models_tokenizer(model_dir, tokenizer, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one two three four\n" * 30)
    windows = windows_of_text(model_dir, path)
    assert windows.shape[1] == 16
    assert "two three" in tokenizer.decode(windows[0].tolist())
    with pytest.raises(InputError, match=r"missing\.txt"):
        windows_of_text(model_dir, tmp_path / "missing.txt")


def test_the_validation_text_beside_a_trained_model(model_dir, tokenizer, tmp_path):
    from tfgpt.data.corpus import CorpusOptions
    from tfgpt.data.prepare import prepare_corpus

    assert windows_beside(model_dir) is None
    for name in range(8):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / f"corpus/{name}.txt").write_text(f"text {name} is its own, and {name * 7}. " * 40)
    corpus = prepare_corpus(
        tmp_path / "corpus", model_dir.parent / "data", CorpusOptions(vocabulary_size=270)
    )
    assert windows_beside(model_dir) is None  # another tokenizer than the model's
    corpus.tokenizer.save_pretrained(model_dir, 16)
    windows = windows_beside(model_dir)
    np.testing.assert_array_equal(windows[0], corpus.validation.window(0, 16))
