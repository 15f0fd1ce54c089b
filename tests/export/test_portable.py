"""The graph of standard operators: every family's numbers, in onnxruntime and in onnx's own evaluator."""

import numpy as np
import onnx
import onnxruntime
import pytest

SMALL = {
    "vocabulary_size": 61,
    "context_length": 64,
    "num_layers": 3,
    "hidden_dim": 32,
    "num_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
FAMILIES = {
    "gpt1": ("gpt1", "117m", {}),
    "gpt2": ("gpt2", "124m", {"scale_by_inverse_layer": True}),
    "gpt3": ("gpt3", "125m", {"window": 5, "head_dim": 16}),
    "gpt_neo": ("gpt_neo", "125m", {"window": 5}),
    "gptj": ("gptj", "6b", {"rotary_dim": 6}),
    "gpt_neox": ("gpt_neox", "20b", {"rotary_dim": 4}),
    "gpt_oss": (
        "gpt_oss",
        "20b",
        {"pad_token_id": 0, "num_key_value_heads": 2, "head_dim": 16, "window": 5, "num_experts": 4},
    ),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def made(request, tmp_path_factory):
    """(Keras model, path of its portable graph)."""
    from tfgpt_export import export

    import tfgpt
    from tfgpt.families.registry import family

    name, size, changes = FAMILIES[request.param]
    model = tfgpt.CausalLM(family(name).config_of(size, **{**SMALL, **changes}), dtype="float32")
    generator = np.random.default_rng(0)
    for path, variable in model.named_weights().items():
        noise = generator.standard_normal(variable.shape).astype(np.float32)
        variable.assign(1 + 0.3 * noise if path.endswith("scale") else 0.2 * noise)
    folder = tmp_path_factory.mktemp("portable")
    model.save_pretrained(folder / "model")
    artifact = export(
        folder / "model", folder / "export", ("fp32",), saved_model=False, portable=True, verify=False
    )
    return model, artifact.files["portable"], artifact


def feeds_of(inputs, token_ids, mask, start=0, cache=None):
    if cache is None:
        cache = [np.zeros((len(token_ids), heads, 0, width), np.float32) for heads, width in inputs.values()]
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    feeds = {"input_ids": token_ids[:, start:], "attention_mask": mask, "position_ids": positions[:, start:]}
    return feeds | dict(zip(inputs, cache, strict=True))


def pasts_of(path):
    graph = onnx.load(path).graph
    dims = {each.name: [d.dim_value for d in each.type.tensor_type.shape.dim] for each in graph.input}
    return {name: (found[1], found[3]) for name, found in dims.items() if name.startswith("past")}


def padded():
    mask = np.ones((3, 24), np.int64)
    mask[1, :9], mask[2, 3:21] = 0, 0  # on the left, and in the middle
    return mask


def test_no_operator_of_anybody_and_the_lowest_versions(made):
    _, path, artifact = made
    model = onnx.load(path)
    assert {each.domain: each.version for each in model.opset_import} == {"": 17}
    assert model.ir_version == 8
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.metadata_props  # its cache grows; it is not written in place
    fused = onnx.load(artifact.files["fp32"])
    assert [each.name for each in model.graph.input] == [each.name for each in fused.graph.input]
    assert [each.name for each in model.graph.output] == [each.name for each in fused.graph.output]


def test_onnxs_checker_and_strict_shape_inference(made):
    model = onnx.load(made[1])
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in inferred.graph.value_info}
    assert ranks and set(ranks) >= {name for node in model.graph.node[:-1] for name in node.output} - {
        each.name for each in model.graph.output
    }


def test_onnxruntime_gives_the_logits_of_keras(made):
    keras_model, path, _ = made
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    token_ids, mask, inputs = np.random.default_rng(1).integers(0, 61, (3, 24)), padded(), pasts_of(path)
    wanted = np.asarray(keras_model(token_ids, mask=mask))
    for ends in ((24,), (1, 9, 24), range(20, 25)):
        cache, parts, start = None, [], 0
        for end in ends:
            logits, *cache = session.run(
                None, feeds_of(inputs, token_ids[:, :end], mask[:, :end], start, cache)
            )
            parts.append(logits)
            start = end
        found = np.concatenate(parts, axis=1)
        assert np.isfinite(found).all()
        # Of order 1 to 10; float32 sums in another order. Wrong masks and positions show at 1e-1.
        np.testing.assert_allclose(found[mask == 1], wanted[mask == 1], rtol=0, atol=2e-5)


def test_onnxs_reference_evaluator_gives_them_too(made):
    from onnx.reference import ReferenceEvaluator

    keras_model, path, _ = made
    evaluator = ReferenceEvaluator(onnx.load(path))
    token_ids, mask, inputs = (
        np.random.default_rng(2).integers(0, 61, (2, 12)),
        padded()[:2, :12],
        pasts_of(path),
    )
    wanted = np.asarray(keras_model(token_ids, mask=mask))
    first, *cache = evaluator.run(None, feeds_of(inputs, token_ids[:, :11], mask[:, :11]))
    last, *_ = evaluator.run(None, feeds_of(inputs, token_ids, mask, 11, cache))
    found = np.concatenate([first, last], axis=1)
    np.testing.assert_allclose(found[mask == 1], wanted[mask == 1], rtol=0, atol=2e-5)


@pytest.mark.slow
def test_the_export_verifies_it(tmp_path, model_directory):
    from tfgpt_export import export

    artifact = export(model_directory, tmp_path / "export", ("int8",), saved_model=False, portable=True)
    entries = [entry for entry in artifact.verification if entry["artifact"] == "portable"]
    assert entries[0]["kind"] == "lossless" and entries[0]["max_relative_difference"] < 1e-5
    assert "standard operators" in (tmp_path / "export/verification.md").read_text()
