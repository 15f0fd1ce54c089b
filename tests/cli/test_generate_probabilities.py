"""`tfgpt generate --json` with probabilities and guesses, and what it refuses."""

import json
import math

import pytest

from tfgpt.cli import main
from tfgpt.tokenizers.byte_pair import BytePairTokenizer

TEXT = "to be, or not to be, to be"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model and its export."""
    import tfgpt

    folder = tmp_path_factory.mktemp("made")
    tokenizer = BytePairTokenizer.train([TEXT] * 9, vocabulary_size=270)
    config = tfgpt.ModelConfig(
        vocabulary_size=tokenizer.vocabulary_size, context_length=64, num_layers=1, num_heads=1, hidden_dim=8
    )
    tfgpt.CausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    arguments = ["--precision", "fp32", "--no-saved-model", "--no-verify"]
    assert main(["export", str(folder / "model"), "--output", str(folder / "export"), *arguments]) == 0
    return folder


def test_probabilities(made, capsys):
    common = ["generate", str(made / "export"), TEXT, "--max-new-tokens", "5", "--json"]
    assert main([*common, "--logprobs", "--prompt-logprobs", "--top-logprobs", "2", "--speculate", "4"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert len(found["logprobs"]) == len(found["top_logprobs"]) == len(found["token_ids"]) == 5
    assert len(found["prompt_logprobs"]) == len(found["prompt_token_ids"]) == found["prompt_tokens"]
    assert found["prompt_logprobs"][0] is None and found["prompt_top_logprobs"][0] is None
    # An untrained model knows nothing: all tokens are about as probable.
    assert found["prompt_logprobs"][1:] == pytest.approx(
        [-math.log(270)] * (found["prompt_tokens"] - 1), abs=0.5
    )
    pairs = zip(found["token_ids"], found["logprobs"], found["top_logprobs"], strict=True)
    assert all(top[0] == [token_id, score] for token_id, score, top in pairs)
    assert main(common) == 0
    [plain] = json.loads(capsys.readouterr().out)
    assert plain["token_ids"] == found["token_ids"] and "logprobs" not in plain


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("export", ["--logprobs"], "add --json"),
        ("export", ["--json", "--top-logprobs", "2"], "--logprobs or --prompt-logprobs beside it"),
        ("export", ["--speculate", "-1"], "found speculate=-1"),
        ("model", ["--speculate", "2"], "--speculate works with exports alone"),
        ("model", ["--json", "--prompt-logprobs"], "--prompt-logprobs works with exports alone"),
    ],
)
def test_what_does_not_go_together(made, capsys, name, arguments, message):
    assert main(["generate", str(made / name), TEXT, *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")
