"""The engine's graph: its contract, what was rewritten, and what was left alone."""

import numpy as np
import onnx
import onnxruntime
import pytest
from tfgpt_export.convert import LoweringError, operator_counts
from tfgpt_export.engine_graph import engine_graph

from tfgpt.serving.engine_graph import EngineCache, Feed, _arrays, load_engine_graph

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
def test_two_gathers_a_layer_and_two_of_the_wanted_tokens_instead_of_the_mask(exported, precision):
    expected = dict(exported.counts[precision])
    # What made the mask into attention's bias and lengths.
    for name in ("Shape", "Cast", "Sub", "Expand", "Squeeze", "Concat", "Mul", "Unsqueeze"):
        del expected[name]
    expected["GatherND"] = 2 * LAYERS
    expected["Gather"] = expected.get("Gather", 0) + 2
    assert operator_counts(onnx.load(engine_path(exported, precision)).graph) == expected
    assert sum(expected.values()) <= 16 * LAYERS + 40


@pytest.mark.parametrize("name", ["engine", "engine_quantized", "prompts_quantized"])
def test_the_last_layer_makes_rows_of_wanted_tokens_alone(exported, name):
    """Everything after its keys and values: logits and cache are those of a run that wants all tokens."""
    path = exported.files["fp32"].parent / f"{name}.onnx"
    made = _rows_of_last_mlp(path)
    token_ids = [(7 * i) % VOCABULARY for i in range(70)]
    found = {}
    for wanted in (70, 1, 0):
        cache = EngineCache(load_engine_graph(path))
        cache.reserve(1, 80)
        logits = cache.run([Feed(0, 0, token_ids, wanted)]).copy()
        found[wanted] = logits, [buffer.copy() for buffer in cache._buffers]
        assert made(token_ids, wanted) == wanted
    logits, cached = found[70]
    np.testing.assert_array_equal(found[1][0], logits[-1:])
    assert found[0][0].shape == (0, VOCABULARY)
    for wanted in (1, 0):
        for buffer, expected in zip(found[wanted][1], cached, strict=True):
            np.testing.assert_array_equal(buffer, expected)


def _rows_of_last_mlp(path):
    """`made(token_ids, wanted)`: how many rows the last layer's nonlinearity has."""
    model = onnx.load(path, load_external_data=False)
    last = [node for node in model.graph.node if node.op_type == "Gelu"][-1].output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def made(token_ids, wanted):
        feeds = _arrays([Feed(0, 0, token_ids, wanted)], 1)
        for each in session.get_inputs():
            if each.name.startswith("past_key_values."):
                feeds[each.name] = np.zeros((1, HEADS, 80, HEAD_DIM), np.float32)
        return session.run([last], feeds)[0].shape[1]

    return made


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
