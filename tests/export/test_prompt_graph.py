"""The engine's graph for long prompts: its products against NumPy, its contract, and what it predicts."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from tfgpt_export import comparison, export, tolerances
from tfgpt_export import prompt_graph as prompt_graph_module
from tfgpt_export.blocks import BlockFormat
from tfgpt_export.checksums import CHECKSUMS
from tfgpt_export.convert import operator_counts
from tfgpt_export.gates import NOT_JUDGED
from tfgpt_export.lower import MICROSOFT
from tfgpt_export.plan import QuantizationPlan
from tfgpt_export.prompt_graph import prompt_graph
from tfgpt_export.recheck import verify_export
from tfgpt_export.reference_file import REFERENCE_FILE, read_reference, write_reference

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.models.causal_lm import CausalLM
from tfgpt.serving import Session
from tfgpt.serving.engine import LONG_PROMPT

LAYERS, VOCABULARY, CONTEXT = 2, 97, 160
WIDTH, OUT = 64, 48


# --- one product ---


def product(rng, with_bias):
    """A graph of one product with 8-bit weights, its plan, and the weight and bias that it stands for."""
    form, plan = BlockFormat(8, 32), QuantizationPlan()
    weight, bias = rng.standard_normal((WIDTH, OUT), np.float32), rng.standard_normal(OUT, np.float32)
    plan.forms["w"] = form
    plan.transposed.add("w")
    plan.by_row.add("w")
    tensors = dict(plan.tensors("w", lambda: weight)) | {"b": bias}
    inputs = ["x", "w.q8", "w.scales", *(["", "", "b"] if with_bias else [])]
    sizes = {"K": WIDTH, "N": OUT, "bits": 8, "block_size": 32, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain=MICROSOFT, **sizes)
    shapes = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, "tokens", width])
        for name, width in (("x", WIDTH), ("y", OUT))
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph([node], "product", shapes[:1], shapes[1:], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    rounded = plan.rounded("w", (WIDTH, OUT), tensors["w.q8"], tensors["w.scales"])
    return model, plan, rounded, bias if with_bias else np.zeros(OUT, np.float32)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x[None]})[0][0]


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_is_that_of_rounded_rows(rng, with_bias):
    model, plan, weight, bias = product(rng, with_bias)
    x = rng.standard_normal((9, WIDTH), np.float32) * np.geomspace(1e-6, 1e6, 9)[:, None].astype(np.float32)
    scales = np.abs(x).max(axis=1, keepdims=True) * np.float32(1 / 127)
    wanted = np.rint(x / scales).astype(np.float64) * scales @ weight.astype(np.float64) + bias
    found = run(prompt_graph(model, plan), x)
    assert (np.abs(found - wanted) <= 1e-6 * np.abs(wanted).max(axis=1, keepdims=True)).all()
    # And near the product that it stands in for: 8 bits a row lose some 0.5 % of a typical number.
    exact = x @ weight + bias
    assert np.abs(found - exact).mean() < 0.01 * np.abs(exact).mean()


def test_the_largest_sums_are_exact(rng):
    """All products at their largest, of one sign: what pairs of bytes summed in 16 bits cannot hold."""
    model, plan, weight, bias = product(rng, True)
    x = np.sign(weight[:, :1].T).astype(np.float32) * np.ones((1, WIDTH), np.float32)
    np.testing.assert_allclose(run(prompt_graph(model, plan), x), x @ weight + bias, rtol=1e-5, atol=1e-4)


def test_rows_do_not_see_each_other(rng):
    model, plan, _, bias = product(rng, True)
    x = rng.standard_normal((40, WIDTH), np.float32)
    x[::3] *= 1e4
    x[5] = 0
    graph = prompt_graph(model, plan)
    together = run(graph, x)
    assert all((run(graph, row[None])[0] == found).all() for row, found in zip(x, together, strict=True))
    assert (together[5] == bias).all()


def test_only_weights_with_one_scale_a_column_take_part(rng):
    model, plan, *_ = product(rng, True)
    plan.by_row.clear()
    assert prompt_graph(model, plan) is None


def test_a_weight_with_an_input_that_stands_out_stays_in_blocks(rng):
    form, plan = BlockFormat(8, 32), QuantizationPlan()
    plan.forms["w"] = plan.forms["v"] = form
    plan.transposed |= {"w", "v"}
    plan.by_row |= {"w", "v"}
    weight = rng.standard_normal((256, 48), np.float32)
    found = dict(plan.tensors("v", lambda: weight))
    assert (found["v.scales"] == found["v.scales"][:, :1]).all() and plan.by_row == {"w", "v"}
    weight[3] *= 40
    found = dict(plan.tensors("w", lambda: weight))
    rounded = plan.rounded("w", weight.shape, found["w.q8"], found["w.scales"])
    assert plan.by_row == {"v"}
    # Its own block alone is rounded more coarsely.
    assert np.abs(rounded - weight)[32:].max() < 0.03


# --- an export ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model of two layers, 64 wide, exported with text to judge its rounding by."""
    folder = tmp_path_factory.mktemp("prompts")
    model = CausalLM(ModelConfig(VOCABULARY, CONTEXT, LAYERS, 4, WIDTH), dtype="float32")
    random = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(variable + random.normal(size=variable.shape) * 0.1)
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    artifact = export(folder / "model", folder / "export", ("fp32", "int8"), saved_model=False)
    return artifact.output


def test_the_contract_is_the_engines(exported):
    sessions = [
        onnxruntime.InferenceSession(exported / "onnx" / name, providers=["CPUExecutionProvider"])
        for name in ("engine_quantized.onnx", "prompts_quantized.onnx")
    ]
    engine, prompts = (
        [(each.name, each.type, each.shape) for each in (*session.get_inputs(), *session.get_outputs())]
        for session in sessions
    )
    assert engine == prompts


def test_all_products_but_the_head_are_of_whole_numbers(exported):
    counts = operator_counts(onnx.load(exported / "onnx" / "prompts_quantized.onnx").graph)
    assert counts["MatMulIntegerToFloat"] == 4 * LAYERS and counts["MatMulNBits"] == 1
    assert "MatMulIntegerToFloat" not in operator_counts(
        onnx.load(exported / "onnx" / "engine_quantized.onnx").graph
    )


def test_weights_beside_the_graph_are_shared(folder, monkeypatch):
    from tfgpt_export import weights

    monkeypatch.setattr(weights, "SINGLE_FILE_BYTES", 0)
    artifact = export(folder / "model", folder / "beside", ("int8",), saved_model=False, verify=False)
    places = {}
    for name in ("engine_quantized.onnx", "prompts_quantized.onnx"):
        graph = onnx.load(artifact.output / "onnx" / name, load_external_data=False).graph
        places[name] = {
            each.name: {entry.key: entry.value for entry in each.external_data}
            for each in graph.initializer
            if each.external_data
        }
    assert places["engine_quantized.onnx"] == places["prompts_quantized.onnx"]
    assert len(places["prompts_quantized.onnx"]) > 4 * LAYERS
    assert (artifact.output / "onnx" / "prompts_quantized.onnx").stat().st_size < 100_000


def test_long_prompts_say_what_the_engine_says_and_do_not_see_each_other(exported):
    random = np.random.default_rng(1)
    lengths = (LONG_PROMPT, 3, 140, 100, LONG_PROMPT - 1)
    prompts = [random.integers(0, VOCABULARY, length).tolist() for length in lengths]
    options = GenerationOptions(max_new_tokens=8, prompt_logprobs=True, logprobs=True, end_of_text_ids=())
    session = Session.open(exported, "int8")
    together = session.generate(prompts, options)
    alone = [session.generate(prompt, options)[0] for prompt in prompts]
    assert together == alone  # probabilities bit by bit
    plain = Session.open(exported, "int8", prompt_graph=False).generate(prompts, options)
    exact = Session.open(exported, "fp32").generate(prompts, options)
    for length, found, blocks, wanted in zip(lengths, together, plain, exact, strict=True):
        scores, others, keras = (np.array(each.prompt_logprobs[1:]) for each in (found, blocks, wanted))
        assert (scores == others).all() == (length < LONG_PROMPT)
        # Nats by which two kinds of rounding, and rounding at all, move a token's probability.
        assert np.abs(scores - others).mean() < 0.02 and np.abs(scores - keras).mean() < 0.03


def test_a_session_for_many_rows_takes_it_for_every_token(exported, monkeypatch):
    from tfgpt.serving import session as session_module

    random = np.random.default_rng(2)
    prompts = [random.integers(0, VOCABULARY, length).tolist() for length in (3, 90, 40)]
    options = GenerationOptions(max_new_tokens=8, prompt_logprobs=True, logprobs=True, end_of_text_ids=())
    plain = Session.open(exported, "int8").generate(prompts, options)
    loaded, load = [], session_module.load_engine_graph
    monkeypatch.setattr(
        session_module,
        "load_engine_graph",
        lambda path, *rest: loaded.append(path.name) or load(path, *rest),
    )
    exact = Session.open(exported, "fp32", many_rows=True).generate(prompts, options)
    session = Session.open(exported, "int8", many_rows=True)
    together = session.generate(prompts, options)
    assert loaded == ["engine.onnx", "prompts_quantized.onnx"]
    for prompt, found, blocks, wanted in zip(prompts, together, plain, exact, strict=True):
        [alone] = session.generate(prompt, options)
        assert found.token_ids == alone.token_ids
        scores, by_blocks, by_fp32, by_itself = (
            np.array([*each.prompt_logprobs[1:], *each.logprobs]) for each in (found, blocks, wanted, alone)
        )
        np.testing.assert_array_equal(scores, by_itself)
        assert (scores != by_blocks).any()
        count = len(prompt) - 1  # later tokens may be others
        assert np.abs(scores - by_fp32)[:count].mean() < 0.03


@pytest.mark.parametrize("per_level", [np.nan, np.inf])
def test_a_graph_that_gives_no_numbers_is_left_out(folder, monkeypatch, per_level):
    monkeypatch.setitem(prompt_graph_module.CONSTANTS, "prompt.per_level", np.array(per_level, np.float32))
    artifact = export(folder / "model", folder / "no_numbers", ("int8",), saved_model=False)
    assert not (artifact.output / "onnx" / "prompts_quantized.onnx").exists()
    [entry] = [each for each in artifact.verification if each["artifact"] == "int8_prompts"]
    assert entry["kind"] == "left out" and "is nan, expected at most" in entry["reason"]


def test_a_graph_that_does_not_run_is_left_out(folder, monkeypatch):
    def fails(*_):
        raise RuntimeError("indices out of\nbounds")

    monkeypatch.setattr(comparison, "PromptRunner", fails)
    artifact = export(folder / "model", folder / "not_run", ("int8",), saved_model=False)
    [entry] = [each for each in artifact.verification if each["artifact"] == "int8_prompts"]
    assert (entry["kind"], entry["reason"]) == ("left out", "indices out of bounds")


def test_an_export_that_recorded_no_tokens_for_it_is_not_judged_by_them(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    path = copy / REFERENCE_FILE
    reference = read_reference(path)
    del reference.measured["int8_prompts"]["greedy"]
    write_reference(reference, path)
    _, tokens = entries_of(verify_export(copy))
    assert not tokens["failures"] and tokens["limit"] == NOT_JUDGED


def test_a_session_for_many_rows_needs_its_graph_whole_and_of_its_model(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "onnx/prompts_quantized.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"cannot load in .*prompts_quantized\.onnx"):
        Session.open(copy, "int8", many_rows=True)
    config = ModelConfig(VOCABULARY, CONTEXT, LAYERS + 1, 4, WIDTH)
    CausalLM(config, dtype="float32").save_pretrained(tmp_path / "other")
    export(tmp_path / "other", tmp_path / "others", ("int8",), saved_model=False, verify=False)
    shutil.copy(tmp_path / "others/onnx/prompts_quantized.onnx", copy / "onnx")
    message = (
        r"cache of 3 layers, 4 heads of 16 in .*prompts_quantized.onnx, expected 2, 4 and 16 as in genai"
    )
    with pytest.raises(InputError, match=message):
        Session.open(copy, "int8", many_rows=True)
    assert Session.open(copy, "int8").engine is not None
    shutil.copy(tmp_path / "others/onnx/engine_quantized.onnx", copy / "onnx")
    with pytest.raises(InputError, match=r"cache of 3 layers, .*engine_quantized.onnx"):
        Session.open(copy, "int8")
    (copy / "onnx/prompts_quantized.onnx").unlink()
    shutil.copy(exported / "onnx/engine_quantized.onnx", copy / "onnx")
    assert Session.open(copy, "int8", many_rows=True).engine is not None


def test_it_is_verified_and_verified_again(exported):
    report = json.loads((exported / "verification.json").read_text())
    entry, tokens = entries_of(report)
    assert entry["kind"] == "predictions" and 0 < entry["kl_divergence"] < 1e-3
    assert (
        tokens["kind"] == "generation" and tokens["decided_disagreement"] < tolerances.GREEDY["int8_prompts"]
    )
    assert "for long prompts" in (exported / "README.md").read_text()
    assert "for long prompts" in (exported / "verification.md").read_text()
    again, tokens_again = entries_of(verify_export(exported))
    assert again["limits"] and not again["failures"]
    limit = tokens["decided_disagreement"] * tolerances.AGAIN_FACTOR + tolerances.AGAIN_MORE + 0.01
    assert tokens_again["limit"] == pytest.approx(limit) and not tokens_again["failures"]


def entries_of(report):
    return [each for each in report["artifacts"] if each["artifact"] == "int8_prompts"]


def test_tokens_that_it_chooses_otherwise_leave_it_out_too(folder, monkeypatch):
    compare = comparison.compare_generation

    def with_failure(name, *rest):
        entry = compare(name, *rest)
        return entry if name != "int8_prompts" else {**entry, "failures": ["int8_prompts: other tokens"]}

    monkeypatch.setattr(comparison, "compare_generation", with_failure)
    artifact = export(folder / "model", folder / "other_tokens", ("int8",), saved_model=False)
    assert not (artifact.output / "onnx" / "prompts_quantized.onnx").exists()
    [entry] = [each for each in artifact.verification if each["artifact"] == "int8_prompts"]
    assert entry == {
        "artifact": "int8_prompts",
        "kind": "left out",
        "failures": [],
        "reason": "int8_prompts: other tokens",
    }


def change(path, part, changed):
    """Puts `changed(array)` in the place of the one initializer with `part` in its name."""
    model = onnx.load(path)
    [tensor] = [each for each in model.graph.initializer if part in each.name]
    array = changed(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save_model(model, path)


def test_verifying_again_finds_another_graph(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    change(
        copy / "onnx" / "prompts_quantized.onnx", "prompt.per_level", lambda _: np.array(1 / 4, np.float32)
    )
    failures = verify_export(copy)["failures"]
    assert any(each.startswith("int8_prompts: kl divergence against Keras") for each in failures)


def test_what_comes_after_a_long_prompt_is_verified_too(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    change(copy / "onnx" / "engine_quantized.onnx", "decoder/final_norm/scale", lambda scale: -scale)
    failures = verify_export(copy)["failures"]
    assert any(each.startswith("int8_prompts: kl divergence against Keras") for each in failures)


@pytest.mark.parametrize("damage", ["cut", "another model", "fails when it runs"])
def test_a_damaged_graph_is_told_beside_what_int8_gives(exported, folder, tmp_path, damage):
    copy = shutil.copytree(exported, tmp_path / "copy")
    path = copy / "onnx" / "prompts_quantized.onnx"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "another model":
        config = ModelConfig(VOCABULARY, CONTEXT, LAYERS + 1, 4, WIDTH)
        CausalLM(config, dtype="float32").save_pretrained(tmp_path / "other")
        export(tmp_path / "other", tmp_path / "others", ("int8",), saved_model=False, verify=False)
        shutil.copyfile(tmp_path / "others" / "onnx" / path.name, path)
    else:
        change(path, "position", lambda table: table[:4])
    report = verify_export(copy)
    by_artifact = {}
    for entry in report["artifacts"]:
        by_artifact.setdefault(entry["artifact"], []).append(entry)
    assert {entry["kind"] for entry in by_artifact["int8"]} == {"layers", "predictions", "generation"}
    [entry] = by_artifact["int8_prompts"]
    assert entry["kind"] == "unusable"
    wanted = {
        "cut": "cannot load",
        "another model": "expected both of one model",
        "fails when it runs": "indices element out of data bounds",
    }
    assert wanted[damage] in entry["failures"][0] and "\n" not in entry["failures"][0]


def test_a_graph_that_misses_its_gates_is_left_out(folder, monkeypatch):
    text = np.random.default_rng(2).integers(0, VOCABULARY, (8, 64))
    impossible = dict.fromkeys(tolerances.QUANTIZED["int8"], 1e-12)
    monkeypatch.setitem(tolerances.QUANTIZED, "int8_prompts", impossible)
    loose = dict.fromkeys(tolerances.QUANTIZED["int8"], 1.0)
    monkeypatch.setitem(tolerances.QUANTIZED, "int8", loose)
    monkeypatch.setitem(tolerances.GREEDY, "int8", 1.0)
    artifact = export(
        folder / "model", folder / "left_out", ("int8",), saved_model=False, verification_tokens=text
    )
    assert not (artifact.output / "onnx" / "prompts_quantized.onnx").exists()
    [entry] = [each for each in artifact.verification if each["artifact"] == "int8_prompts"]
    assert entry["kind"] == "left out" and "expected at most" in entry["reason"]
    page = (artifact.output / "verification.md").read_text()
    assert "not in this export: int8_prompts" in page
    assert "what missed them was left out (ONNX, 8-bit weights, for long prompts)" in page
    assert "prompts" not in (artifact.output / CHECKSUMS).read_text()
    prompt = list(range(LONG_PROMPT))
    [result] = Session.open(artifact.output, "int8").generate([prompt], GenerationOptions(max_new_tokens=2))
    assert result.token_ids
