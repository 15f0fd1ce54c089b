"""What an export refuses, and that it leaves nothing behind when it does."""

import json
import shutil

import numpy as np
import pytest
from tfgpt_export import VerificationError, export
from tfgpt_export.tolerances import QUANTIZED, TOLERANCES

from tfgpt.errors import InputError


@pytest.fixture
def quick():
    """The cheapest export that is verified."""
    return {"precisions": ("fp32",), "saved_model": False}


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "model")


def test_the_reports_say_what_was_compared(exported):
    report = json.loads((exported.output / "verification.json").read_text())
    kinds = [(entry["artifact"], entry["kind"]) for entry in report["artifacts"]]
    assert kinds == [
        ("fp32", "lossless"),
        ("fp32", "predictions"),
        ("fp16", "lossless"),
        ("fp16", "predictions"),
        ("int8", "rounded"),
        ("int8", "layers"),
        ("int8", "predictions"),
        ("int4", "rounded"),
        ("int4", "layers"),
        ("int4", "predictions"),
        ("fp32", "engine"),
        ("int8_prompts", "predictions"),
        ("int8_prompts", "generation"),
        ("saved_model", "lossless"),
        ("saved_model", "predictions"),
        ("saved_model", "generation"),
        ("saved_model", "loop in the graph"),
        ("saved_model", "text in the graph"),
        # The common graph, and the engine's.
        *[(name, "generation") for name in ("fp32", "fp16", "int8", "int4") for _ in range(2)],
    ]
    assert report["passed"] and not any(entry["failures"] for entry in report["artifacts"])
    by_kind = {(entry["artifact"], entry["kind"]): entry for entry in report["artifacts"]}
    assert by_kind["fp32", "lossless"]["max_relative_difference"] < 1e-5
    assert len(by_kind["fp32", "lossless"]["tensors"]) == 2 * 11 + 1
    assert by_kind["fp32", "predictions"]["kl_divergence"] < 1e-9
    assert max(by_kind[name, "rounded"]["max_relative_difference"] for name in ("int8", "int4")) < 1e-5
    for name in ("fp32", "saved_model"):
        tokens = by_kind[name, "generation"]
        assert tokens["chosen_by_keras"] == tokens["greedy_tokens"] == 16 * tokens["prompts"] == 16 * 256
        assert tokens["first_divergence"] == [0] * 16 + [256]
    page = (exported.output / "verification.md").read_text()
    assert "| ONNX, float32 |" in page and "4,096 are the ones that Keras chooses (100.0%)" in page


def test_checksums_cover_every_file(exported):
    import hashlib

    lines = (exported.output / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ", 1)) for line in lines)
    files = {str(path.relative_to(exported.output)) for path in exported.output.rglob("*") if path.is_file()}
    assert set(listed) == files - {"SHA256SUMS"}
    content = (exported.output / "onnx/model.onnx").read_bytes()
    assert listed["onnx/model.onnx"] == hashlib.sha256(content).hexdigest()


def test_every_stage_leaves_a_file(exported):
    stages = sorted(path.name for path in (exported.output / "stages").iterdir())
    assert stages == ["1_trace.pbtxt", "2_convert.onnx", "4_quantize_int4.onnx", "4_quantize_int8.onnx"]


def test_genai_config_has_no_key_that_its_reader_refuses(exported):
    config = json.loads((exported.output / "genai_config.json").read_text())
    assert config["model"]["decoder"] == {
        "filename": "onnx/model.onnx",
        "head_size": 8,
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 11,
        "num_key_value_heads": 3,
    }
    assert config["model"]["type"] == "decoder" and config["model"]["context_length"] == 80
    assert config["search"]["top_k"] == 50


def test_a_wrong_graph_stops_at_the_first_tensor_that_differs(model_directory, tmp_path, quick, monkeypatch):
    from tfgpt_export import stages

    weights = stages._weights

    def damaged(artifact):
        for name, read in weights(artifact):
            wrong = name == "decoder/block_4/mlp_norm/scale"
            yield name, (lambda read=read: read() * 1.01) if wrong else read

    monkeypatch.setattr(stages, "_weights", damaged)
    # The norm before the MLP of layer 4 changes what layer 5 sees: its keys are the first to differ.
    with pytest.raises(VerificationError, match=r"fp32: present\.5\.key is the first tensor that differs"):
        export(model_directory, tmp_path / "export", **quick)
    assert leftovers(tmp_path) == []


def test_a_failed_export_keeps_the_one_before(model_directory, tmp_path, quick, monkeypatch):
    export(model_directory, tmp_path / "export", **quick, verify=False)
    before = (tmp_path / "export/SHA256SUMS").read_text()
    monkeypatch.setitem(TOLERANCES, "fp32", 0.0)
    with pytest.raises(VerificationError):
        export(model_directory, tmp_path / "export", **quick)
    assert leftovers(tmp_path) == ["export"]
    assert (tmp_path / "export/SHA256SUMS").read_text() == before


@pytest.mark.parametrize("precision", [pytest.param("int8", marks=pytest.mark.slow), "int4"])
def test_a_wrong_bias_in_a_quantized_graph_is_caught(model_directory, tmp_path, monkeypatch, precision):
    from tfgpt_export import quantize

    matmul = quantize._Rewriter._matmul_nbits

    def of_layer_0(self, node, weight, shape, output, bias):
        return matmul(self, node, weight, shape, output, bias and bias.replace("block_5", "block_0"))

    monkeypatch.setattr(quantize._Rewriter, "_matmul_nbits", of_layer_0)
    with pytest.raises(VerificationError, match=rf"{precision}: present\.5\.key is the first tensor that"):
        export(model_directory, tmp_path / "export", precisions=(precision,), saved_model=False)
    assert leftovers(tmp_path) == []


def test_wrong_scales_are_caught(model_directory, tmp_path, monkeypatch):
    from tfgpt_export import blocks

    quantize_blocks = blocks.quantize_blocks

    def with_the_neighbours(weight, form, rounding=None):
        packed, scales = quantize_blocks(weight, form, rounding)
        return packed, np.roll(scales, 1, axis=0)

    monkeypatch.setattr(blocks, "quantize_blocks", with_the_neighbours)
    with pytest.raises(VerificationError, match=r"int8: rounding changed decoder/.* of its size, expected"):
        export(model_directory, tmp_path / "export", precisions=("int8",), saved_model=False)
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_what_rounding_may_cost_is_judged_on_text_that_is_given(model_directory, tmp_path, monkeypatch):
    monkeypatch.setitem(QUANTIZED, "int4", {"perplexity_change": 1e-9})
    options = {"precisions": ("int4",), "saved_model": False}
    export(model_directory, tmp_path / "export", **options)
    page = (tmp_path / "export/verification.md").read_text()
    assert "not judged, since no text was given" in page
    text = np.arange(80).reshape(2, 40)
    with pytest.raises(VerificationError, match=r"int4: perplexity change against Keras is .*, expected at"):
        export(model_directory, tmp_path / "export", verification_tokens=text, **options)


def test_an_unknown_precision_names_the_nearest(model_directory, tmp_path):
    with pytest.raises(InputError, match=r"precision 'fp23'; did you mean 'fp32'"):
        export(model_directory, tmp_path / "export", precisions=("fp23",))


def test_what_is_not_an_export_is_not_replaced(model_directory, tmp_path):
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter1.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"found chapter1.txt in .*which no export wrote"):
        export(model_directory, target)
    with pytest.raises(InputError, match="holds the model itself"):
        export(model_directory, model_directory)
    with pytest.raises(InputError, match="holds the model itself"):
        export(model_directory, tmp_path)
    assert (target / "chapter1.txt").read_text() == "years of work"
    # Anybody may list checksums.
    (target / "SHA256SUMS").write_text(f"{'0' * 64}  chapter1.txt\n{'0' * 64}  verification.json\n")
    with pytest.raises(InputError, match=r"found .* in .*which no export wrote"):
        export(model_directory, target)
    assert (target / "chapter1.txt").read_text() == "years of work"


def test_what_is_laid_into_an_export_is_not_replaced(model_directory, tmp_path):
    """Before it is made again, or while it is."""
    target, options = tmp_path / "export", {"precisions": ("fp32",), "saved_model": False, "verify": False}
    export(model_directory, target, **options)
    (tmp_path / "mine").mkdir()
    (target / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=r"found link in .*which no export wrote"):
        export(model_directory, target, **options)
    (target / "link").unlink()
    # A report of an export is not enough: it has to be listed.
    sums = (target / "SHA256SUMS").read_text()
    without = [line for line in sums.splitlines(keepends=True) if "verification.json" not in line]
    (target / "SHA256SUMS").write_text("".join(without))
    with pytest.raises(InputError, match="which no export wrote"):
        export(model_directory, target, **options)
    (target / "SHA256SUMS").write_text(sums)

    def lay(stage, step):
        (target / "notes.txt").write_text("ours")

    with pytest.raises(InputError, match=r"found notes.txt in .*which no export wrote"):
        export(model_directory, target, progress=lay, **options)
    assert (target / "notes.txt").read_text() == "ours"
    assert not list(tmp_path.glob(".*"))
    (target / "notes.txt").unlink()
    export(model_directory, target, **options)


def test_a_tokenizer_of_another_model(model_directory, tmp_path):
    from tfgpt.tokenizers.character import CharacterTokenizer

    CharacterTokenizer.train(["".join(map(chr, range(32, 130)))]).save_pretrained(model_directory)
    with pytest.raises(InputError, match=r"tokenizer with 98 tokens .*expected at most the 97 of the model"):
        export(model_directory, tmp_path / "export")


def test_a_vocabulary_with_merges_becomes_the_file_that_clients_read(tmp_path):
    from tfgpt.config import ModelConfig
    from tfgpt.models.causal_lm import CausalLM
    from tfgpt.serving import Session
    from tfgpt.tokenizers.byte_pair import BytePairTokenizer

    tokenizer = BytePairTokenizer.train(["the words of the words"] * 3, 262)
    CausalLM(ModelConfig(tokenizer.vocabulary_size, 16, 1, 1, 8)).save_pretrained(tmp_path / "model")
    tokenizer.backend.model.save(str(tmp_path / "model"))  # vocab.json and merges.txt, as slow tokenizers do
    assert not (tmp_path / "model/tokenizer.json").exists()
    export(tmp_path / "model", tmp_path / "out", precisions=("fp32",), saved_model=False, verify=False)
    session = Session.open(tmp_path / "out")
    assert session.tokenizer.encode("the words") == tokenizer.encode("the words")
    [result] = session.generate("the words")
    assert result.text is not None


def test_heads_that_the_attention_operator_cannot_take(gpt2_directory, tmp_path):
    with pytest.raises(InputError, match="heads are 6 wide, expected a multiple of 8"):
        export(gpt2_directory, tmp_path / "export")


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"config\.json is missing"):
        export(tmp_path / "nowhere", tmp_path / "export")
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_saved_model_in_a_process_with_tensorflow_alone(exported, recorded, tmp_path):
    import subprocess
    import sys

    np.save(tmp_path / "ids.npy", recorded["token_ids"])
    np.save(tmp_path / "mask.npy", recorded["left_mask"])
    code = f"""
import sys
for name in "tfgpt tfgpt_export keras keras_hub tensorflow_text".split():
    sys.modules[name] = None  # importing it is an error from here on
import numpy as np, tensorflow as tf
model = tf.saved_model.load({str(exported.files["saved_model"])!r})
ids, mask = np.load("ids.npy"), np.load("mask.npy")
whole = model.signatures["serving_default"](input_ids=tf.constant(ids), attention_mask=tf.constant(mask))
step = model.signatures["cached_step"]
empty = tf.zeros([11, 3, 3, 0, 8])
first = step(
    input_ids=tf.constant(ids[:, :9]), attention_mask=tf.constant(mask[:, :9]),
    past_keys=empty, past_values=empty,
)
rest = step(
    input_ids=tf.constant(ids[:, 9:]), attention_mask=tf.constant(mask),
    past_keys=first["present_keys"], past_values=first["present_values"],
)
np.save("whole.npy", whole["logits"])
np.save("stepped.npy", np.concatenate([first["logits"], rest["logits"]], axis=1))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    real = recorded["left_mask"] == 1
    for name in ("whole", "stepped"):
        found = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_allclose(found[real], recorded["left_logits"][real], rtol=0, atol=1e-5)


def test_the_command_line_reports_and_exits(model_directory, tmp_path, capsys):
    from tfgpt.cli import main

    arguments = ["export", str(model_directory), "--output", str(tmp_path / "out"), "--precision", "fp32"]
    assert main([*arguments, "--no-saved-model", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True
    shutil.rmtree(tmp_path / "out")
    (model_directory / "model.safetensors").write_bytes(b"\x10\x00")
    assert main(arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "model.safetensors (2 bytes) is not a whole safetensors file" in message
    assert leftovers(tmp_path) == []
