"""`tfgpt generate --chat`: what a user says goes through the chat template, Keras or onnxruntime."""

import json

import pytest

from tfgpt.cli import main
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.loading import load_tokenizer

TEMPLATE = "{{ eos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}bot:"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model whose tokenizer has a chat template, and its export."""
    import tfgpt

    folder = tmp_path_factory.mktemp("made")
    tokenizer = BytePairTokenizer.train(["to be, or not to be"] * 9, vocabulary_size=270)
    config = tfgpt.ModelConfig(
        vocabulary_size=tokenizer.vocabulary_size, context_length=64, num_layers=1, num_heads=1, hidden_dim=8
    )
    tfgpt.CausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE)
    arguments = ["--precision", "fp32", "--no-saved-model", "--no-verify"]
    assert main(["export", str(folder / "model"), "--output", str(folder / "export"), *arguments]) == 0
    return folder


@pytest.mark.parametrize("name", ["model", "export"])
def test_prompts_go_through_the_template(made, capsys, name):
    tokenizer = load_tokenizer(made / name)
    rendered = f"{tokenizer.backend.id_to_token(tokenizer.end_of_text_id)}user: hello\nbot:"
    assert main(["generate", str(made / name), "hello", "--chat", "--max-new-tokens", "4", "--json"]) == 0
    [chatted] = json.loads(capsys.readouterr().out)
    assert main(["generate", str(made / name), rendered, "--max-new-tokens", "4", "--json"]) == 0
    [plain] = json.loads(capsys.readouterr().out)
    assert (chatted.pop("prompt"), plain.pop("prompt")) == ("hello", rendered)
    assert chatted == plain
    assert chatted["prompt_tokens"] == len(tokenizer.encode(rendered))
    assert main(["generate", str(made / name), "hello", "--chat", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out == chatted["text"] + "\n"  # the answer, not the prompt
    assert main(["generate", str(made / name), "hello", "hello", "--chat", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out == f"hello: {chatted['text']}\n{'-' * 20}\n" * 2


def test_no_template(made, tmp_path, capsys):
    for path in (made / "model").iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["generate", str(tmp_path), "hello", "--chat"]) == 2
    shown = capsys.readouterr()
    assert "found no chat template" in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")
