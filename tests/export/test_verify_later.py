"""`tfgpt verify`: an export that arrived whole passes, and each kind of damage is found and named."""

import json
import shutil
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tfgpt_export import clients
from tfgpt_export.checksums import write_checksums
from tfgpt_export.recheck import verify_export

from tfgpt.cli import main
from tfgpt.errors import InputError
from tfgpt.files import read_json, write_json


@pytest.fixture
def received(exported, tmp_path):
    """A copy of the export that a test may damage; read with nothing but itself."""
    shutil.copytree(exported.output, tmp_path / "received")
    write_checksums(tmp_path / "received")
    return tmp_path / "received"


def change(export_dir, file, *edits):
    """Changes weights of a graph, each (part of a name, array -> array), and renews the checksums."""
    path = export_dir / "onnx" / file
    model = onnx.load(path)
    for part, edit in edits:
        [tensor] = [each for each in model.graph.initializer if part in each.name]
        changed = edit(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    (path.parent / f"{file}_data").unlink(missing_ok=True)
    onnx.save(model, path)
    write_checksums(export_dir)


def first_failure(export_dir, name):
    report = verify_export(export_dir)
    assert not report["passed"]
    others = [e for e in report["artifacts"] if e["artifact"] not in (name, "files")]
    assert not any(entry["failures"] for entry in others)
    return report["failures"][0]


def test_an_export_verifies_without_tensorflow_and_without_the_model(exported, python):
    printed = python(f"""
import sys
sys.modules.update(tensorflow=None, keras=None, torch=None, transformers=None)
from tfgpt.cli import main
raise SystemExit(main(["verify", {str(exported.output)!r}, "--json"]))
""")
    report = json.loads(printed)
    assert report["passed"] and report["compared_with"] == "recorded answers"
    kinds = {(entry["artifact"], entry["kind"]) for entry in report["artifacts"]}
    for precision in set(exported.files) - {"saved_model"}:
        assert {(precision, "predictions"), (precision, "generation")} <= kinds
    assert ("files", "checksums") in kinds
    assert any("saved_model" in line for line in report["skipped"])


def test_the_recorded_answers_are_small(exported):
    assert (exported.output / "verification_reference.npz").stat().st_size < 400_000


@pytest.mark.parametrize("cut", ["within a line", "after a line"])
def test_a_list_of_checksums_that_was_cut_hides_nothing(received, cut):
    path = received / "SHA256SUMS"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + (lines[3][:30] if cut == "within a line" else ""))
    (received / "onnx/model_quantized.onnx").unlink()
    failures = verify_export(received)["failures"]
    gone = "onnx/model_quantized.onnx was exported and is missing: copy the export again"
    assert gone in failures
    assert "onnx/model.onnx is not listed in SHA256SUMS: copy the export again" in failures
    assert ("SHA256SUMS is not a whole list" in failures[0]) == (cut == "within a line")


def test_a_file_that_is_struck_from_the_list_is_told(received):
    path = received / "SHA256SUMS"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "genai_config.json" not in line))
    (received / "genai_config.json").write_text("{}")
    assert verify_export(received)["failures"] == [
        "genai_config.json is not listed in SHA256SUMS: copy the export again"
    ]


@pytest.mark.parametrize("files", [5, True, "onnx", {"a": 1}, ["../../x", "a" * 300, 5, None]])
def test_a_report_that_says_nonsense_of_its_files(received, files):
    report = read_json(received / "verification.json")
    write_json(received / "verification.json", report | {"files": files})
    write_checksums(received)
    found = [f"{name} was exported and is missing: copy the export again" for name in ("../../x", "a" * 300)]
    assert verify_export(received)["failures"] == (found if isinstance(files, list) else [])


def test_a_damaged_report_is_one_failure_among_others(received):
    (received / "verification.json").write_text("{")
    assert verify_export(received)["failures"] == [
        "verification.json is not the file that was exported: copy the export again"
    ]


@pytest.mark.parametrize("folder", ["onnx", "triton/model/2", "tfserving/model/2"])
def test_a_file_laid_where_a_program_takes_all_is_told(received, folder):
    (received / folder).mkdir(parents=True, exist_ok=True)
    (received / folder / "other.onnx").write_bytes(b"")
    assert (
        f"{folder}/other.onnx is not listed in SHA256SUMS: copy the export again"
        in (verify_export(received)["failures"])
    )


def test_files_that_were_laid_beside_are_no_failure(received):
    (received / "notes.txt").write_text("ours")
    assert not verify_export(received)["failures"]


def test_another_model_is_refused(received, tmp_path):
    from tfgpt.config import ModelConfig
    from tfgpt.models.causal_lm import CausalLM

    CausalLM(ModelConfig(100, 32, 1, 2, 32)).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"found a model with num_layers=1 in .* give the model that it was"):
        verify_export(received, tmp_path / "other")


@pytest.mark.slow
def test_a_changed_byte_is_found(received):
    path = received / "config.json"
    path.write_text(path.read_text() + " ")
    (received / "genai_config.json").unlink()
    report = verify_export(received)
    assert report["failures"] == [
        "config.json is not the file that was exported: copy the export again",
        "genai_config.json is missing: copy the export again",
    ]


@pytest.mark.slow
def test_swapped_layers_are_found(received):
    path = received / "onnx/model.onnx"
    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    names = [f"decoder/block_{layer}/mlp_norm/scale" for layer in (3, 7)]
    change(received, "model.onnx", *((names[i], lambda _, i=i: weights[names[1 - i]]) for i in (0, 1)))
    # The norm before the MLP of layer 3 is seen by the keys of layer 4.
    assert "fp32: present.4.key is the first tensor that differs from Keras" in first_failure(
        received, "fp32"
    )


@pytest.mark.slow
def test_shifted_positions_are_found(received):
    change(received, "model.onnx", ("position", lambda table: np.roll(table, 1, axis=0)))
    assert "fp32: present.0.key is the first tensor that differs from Keras" in first_failure(
        received, "fp32"
    )


def test_a_wrong_number_among_the_logits_is_found(received):
    def nudged(table):
        table[60] *= 1.02  # one token's row, so one column of the logits
        return table

    change(received, "model.onnx", ("token_embedding", nudged))
    assert "is the first tensor that differs from Keras" in first_failure(received, "fp32")


@pytest.mark.slow
def test_swapped_scales_are_found(received):
    change(
        received, "model_quantized.onnx", ("block_2/mlp/up/kernel.scales", lambda scales: scales[::-1].copy())
    )
    failure = first_failure(received, "int8")
    assert failure.startswith("int8: kl divergence against Keras is") and "expected at most" in failure


def test_a_graph_that_does_not_load_is_a_failure(received):
    path = received / "onnx/model_quantized.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    write_checksums(received)
    failure = first_failure(received, "int8")
    assert "int8: found a graph that onnxruntime cannot load" in failure and "\n" not in failure


@pytest.mark.slow
def test_a_graph_of_another_model_is_a_failure(received, tmp_path):
    from tfgpt_export import export

    from tfgpt.config import ModelConfig
    from tfgpt.models.causal_lm import CausalLM

    CausalLM(ModelConfig(97, 80, 2, 3, 24)).save_pretrained(tmp_path / "other")
    export(tmp_path / "other", tmp_path / "export", ("fp32",), saved_model=False, verify=False)
    shutil.copy(tmp_path / "export/onnx/model.onnx", received / "onnx/model.onnx")
    write_checksums(received)
    assert "found a graph of 97 tokens and 2 layers, expected 97 and 11" in first_failure(received, "fp32")


def test_damaged_and_missing_recorded_answers(received):
    path = received / "verification_reference.npz"
    path.write_bytes(path.read_bytes()[:5000])
    report = verify_export(received)
    assert (
        "is not a whole reference" in report["failures"][1]
        and "copy the export again" in report["failures"][1]
    )
    path.unlink()
    missing, asked = verify_export(received)["failures"]
    assert missing == "verification_reference.npz is missing: copy the export again"
    assert "found no verification_reference.npz" in asked


def test_an_export_that_was_not_verified(received):
    """It has no recorded answers: that is told where its files are whole, and what is damaged otherwise."""
    name, path = "verification_reference.npz", received / "verification.json"
    (received / name).unlink()
    report = read_json(path)
    report["files"].remove(name)
    write_json(path, report)
    write_checksums(received)
    with pytest.raises(InputError, match=r"found no verification_reference\.npz .* give --model MODEL_DIR"):
        verify_export(received)
    (received / "config.json").write_text("{}")
    assert verify_export(received)["failures"][0].startswith("config.json is not the file that was exported")


@pytest.mark.slow
def test_with_the_model_everything_is_asked_of_keras(exported, tmp_path, capsys):
    text = tmp_path / "page.html"
    arguments = ["verify", str(exported.output), "--model", str(exported.model_dir), "--html", str(text)]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["compared_with"] == "Keras" and report["skipped"] == []
    assert ("saved_model", "generation") in {(e["artifact"], e["kind"]) for e in report["artifacts"]}
    assert "<svg" in text.read_text(encoding="utf-8")


def test_the_command_line_says_what_is_wrong(received, capsys):
    (received / "README.md").unlink()
    assert main(["verify", str(received)]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == (
        "tfgpt: the export is not what was made: README.md is missing: copy the export again"
    )
    assert "**FAILED.**" in captured.out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "found no directory nowhere, expected an export"),
        (["EXPORT", "--text", "x.txt"], "found --text without --model"),
        (["EXPORT", "--client", "genia"], "there is no client 'genia'; did you mean 'genai'?"),
        (["EXPORT", "--client-at", "genai"], "expected NAME=PATH"),
        (["EXPORT", "--client-at", "genai=/nowhere"], "found a place of genai, which is not asked for"),
        (["EXPORT", "--html", "EXPORT"], "expected a file for the page"),
        (
            ["EXPORT", "--client-at", "genai=/nowhere/python", "--client", "genai"],
            "expected its Python interpreter",
        ),
        (
            ["EXPORT", "--client", "node", "--client-at", "node=/nowhere"],
            "found no @huggingface/transformers in",
        ),
    ],
)
def test_wrong_use(exported, capsys, arguments, message):
    arguments = [str(exported.output) if each == "EXPORT" else each for each in arguments]
    assert main(["verify", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_client_in_a_process_of_its_own_chooses_the_same_tokens(exported):
    report = verify_export(exported.output, client_names=["onnxruntime"])
    [entry] = [entry for entry in report["artifacts"] if entry.get("client") == "onnxruntime"]
    assert report["passed"]
    assert entry["greedy_tokens"] == entry["chosen_by_keras"] == 4096


@pytest.mark.slow
def test_a_client_that_chooses_other_tokens_fails(exported, tmp_path, monkeypatch):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import json, sys\n"
        "asked = json.load(open(sys.argv[2]))\n"
        "rows = [[0] * asked['new_tokens'] for prompt in asked['prompts']]\n"
        "print('loading'); print(json.dumps({'token_ids': rows}))\n"
    )
    monkeypatch.setitem(clients.CLIENTS, "genai", (str(wrong), "json"))
    report = verify_export(exported.output, client_names=["genai"], client_places={"genai": sys.executable})
    [failure] = report["failures"]
    assert (
        failure.startswith("fp32 in genai: greedy token 0 after a prompt of") and "Keras chooses" in failure
    )


@pytest.mark.parametrize(
    "printed",
    [
        b"\xff\xfe",
        b'{"token_ids": 5}',
        b'{"token_ids": {"": 1}}',
        b'{"token_ids": [[1.5]]}',
        b'{"token_ids": [[99999999999]]}',
    ],
)
def test_what_a_client_prints_that_is_no_tokens(tmp_path, printed):
    (tmp_path / "program.py").write_text(f"import sys; sys.stdout.buffer.write({printed})")
    program = clients.Program("genai", (sys.executable, str(tmp_path / "program.py")))
    with pytest.raises(clients.ClientError, match="genai printed no tokens"):
        program.greedy_tokens(tmp_path, [[1]], 1, "fp32")


def test_a_client_that_cannot_be_started(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/nowhere/python\n")
    script.chmod(0o700)
    with pytest.raises(InputError, match=r"found .*, which cannot be started \(No such file"):
        clients.find(["genai"], {"genai": str(script)})
    program = clients.Program("genai", (str(script),))
    with pytest.raises(clients.ClientError, match=r"genai cannot be started: .*No such file"):
        program.greedy_tokens(tmp_path, [[1]], 1, "fp32")


@pytest.mark.slow
def test_a_client_that_breaks_is_told(exported, tmp_path, monkeypatch):
    for number, text in enumerate(("raise SystemExit('no model here')", "print('hello')")):
        program = tmp_path / f"broken{number}.py"
        program.write_text(text)
        monkeypatch.setitem(clients.CLIENTS, "genai", (str(program), "json"))
        [failure] = verify_export(exported.output, client_names=["genai"])["failures"]
        assert ("genai failed with exit code 1: no model here", "genai printed no tokens: 'hello\\n'")[
            number
        ] == failure


def test_all_clients_are_those_that_are_found(exported, monkeypatch):
    monkeypatch.setattr(clients, "_has_module", lambda module: False)
    found = clients.find(["all"], {"node": "/nowhere"})
    assert found.programs == {} and len(found.missing) == len(clients.CLIENTS)
    assert found.missing[1].endswith("say where it is with --client-at genai=PATH_TO_PYTHON")


def test_rows_that_end_with_the_text_are_completed():
    reference = np.array([[5, 1, 7, 8], [5, 6, 7, 8], [2, 3, 4, 5]])
    found = clients.completed([[5, 1], [5, 6], [2, 3, 4, 5, 9]], reference, {1})
    assert found.tolist() == [[5, 1, 7, 8], [5, 6, -1, -1], [2, 3, 4, 5]]
