"""The engine's graph: its contract, what was rewritten, and what was left alone."""

import onnx
import onnxruntime
import pytest
from tfgpt_export.convert import LoweringError, operator_counts
from tfgpt_export.engine_graph import engine_graph

LAYERS, HEADS, HEAD_DIM, VOCABULARY = 11, 3, 8, 97


def engine_path(exported, precision):
    return (
        exported.files[precision].parent / {"fp32": "engine.onnx", "int8": "engine_quantized.onnx"}[precision]
    )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_names_order_types_and_dimensions(exported, precision):
    path = engine_path(exported, precision)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    cache = ["rows", HEADS, "capacity", HEAD_DIM]
    pairs = [f"{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]
    inputs = [
        ("input_ids", "tensor(int64)", [1, "tokens"]),
        ("position_ids", "tensor(int64)", [1, "tokens"]),
        ("token_of_slot", "tensor(int64)", ["rows", "chunk", 2]),
        ("slot_of_token", "tensor(int64)", [1, "tokens", 2]),
        ("seqlens_k", "tensor(int32)", ["rows"]),
        ("query_seqlens", "tensor(int32)", ["rows"]),
        ("total_sequence_length", "tensor(int32)", []),
        ("logits_indices", "tensor(int64)", ["wanted"]),
        *((f"past_key_values.{pair}", "tensor(float)", cache) for pair in pairs),
    ]
    outputs = [("logits", "tensor(float)", [1, "wanted", VOCABULARY])]
    outputs += [(f"present.{pair}", "tensor(float)", cache) for pair in pairs]
    assert [(each.name, each.type, each.shape) for each in session.get_inputs()] == inputs
    assert [(each.name, each.type, each.shape) for each in session.get_outputs()] == outputs


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_two_gathers_a_layer_and_one_before_the_head_instead_of_the_mask(exported, precision):
    expected = dict(exported.counts[precision])
    # What made the mask into attention's bias and lengths.
    for name in ("Shape", "Cast", "Sub", "Expand", "Squeeze", "Concat", "Mul", "Unsqueeze"):
        del expected[name]
    expected["GatherND"] = 2 * LAYERS
    expected["Gather"] = expected.get("Gather", 0) + 1
    assert operator_counts(onnx.load(engine_path(exported, precision)).graph) == expected
    assert sum(expected.values()) <= 16 * LAYERS + 40


def test_weights_beside_the_graph_are_shared(exported, tmp_path, monkeypatch):
    """A large model's data file is named by both graphs; neither holds a weight."""
    from tfgpt_export import weights

    monkeypatch.setattr(weights, "SINGLE_FILE_BYTES", 0)
    from tfgpt_export import export

    artifact = export(exported.model_dir, tmp_path / "export", ("fp32",), saved_model=False, verify=False)
    folder = artifact.files["fp32"].parent
    assert sorted(path.name for path in folder.iterdir()) == ["engine.onnx", "model.onnx", "model.onnx_data"]
    tensors = {}
    for name in ("engine.onnx", "model.onnx"):
        graph = onnx.load(folder / name, load_external_data=False).graph
        tensors[name] = {
            each.name: {entry.key: entry.value for entry in each.external_data}
            for each in graph.initializer
            if each.external_data
        }
    assert tensors["engine.onnx"] == tensors["model.onnx"] and len(tensors["model.onnx"]) > 4 * LAYERS


def test_a_graph_without_the_attention_operator_is_refused(exported):
    model = onnx.load(exported.files["fp32"])
    for node in model.graph.node:
        node.op_type = node.op_type.replace("GroupQueryAttention", "Attention")
    with pytest.raises(LoweringError, match="GroupQueryAttention"):
        engine_graph(model)
