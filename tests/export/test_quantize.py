"""8-bit weights: the blocks, the rewritten graph, and what the kernel computes with them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tfgpt_export.quantize import ZERO_POINT, quantize_blocks


def dequantize(quantized, scales):
    """float32 `[rows, blocks * block_size]`, written from the definition."""
    values = (quantized.astype(np.float32) - 128.0) * scales[:, :, None]
    return values.reshape(len(values), -1)


def test_a_block_by_hand():
    weight = np.array([[127.0, -63.5, 0.0, 1.4]], np.float32)
    quantized, scales = quantize_blocks(weight, 4)
    assert scales.tolist() == [[1.0]]
    assert quantized.tolist() == [[[255, 64, 128, 129]]]  # -63.5 rounds to the even -64


def test_the_error_is_at_most_half_a_step(rng):
    weight = rng.standard_normal((7, 96), np.float32)
    quantized, scales = quantize_blocks(weight, 32)
    assert quantized.shape == (7, 3, 32) and scales.shape == (7, 3)
    error = np.abs(dequantize(quantized, scales) - weight).reshape(7, 3, 32)
    assert (error <= 0.5001 * scales[:, :, None]).all()


def test_zeros_and_a_last_block_that_is_not_full(rng):
    weight = rng.standard_normal((3, 40), np.float32)
    weight[1] = 0
    quantized, scales = quantize_blocks(weight, 32)
    assert quantized.shape == (3, 2, 32)
    assert (quantized[1] == ZERO_POINT).all() and (scales[1] == 0).all()
    assert (quantized[:, 1, 8:] == ZERO_POINT).all()


def export_wide(folder):
    """The int8 export of a GPT-2 whose table divides into blocks."""
    from tfgpt_export import export

    import tfgpt

    config = tfgpt.ModelConfig(
        vocabulary_size=80, context_length=32, num_layers=2, num_heads=2, hidden_dim=64, initializer_range=0.2
    )
    tfgpt.CausalLM(config).save_pretrained(folder / "model")
    return export(folder / "model", folder / "export", precisions=("int8",), saved_model=False, verify=False)


@pytest.fixture(scope="module")
def wide_export(tmp_path_factory):
    return export_wide(tmp_path_factory.mktemp("wide"))


def test_the_table_is_stored_once_for_lookup_and_head(wide_export):
    model = onnx.load(wide_export.files["int8"])
    names = {each.name for each in model.graph.initializer}
    assert "decoder/token_embedding/table" not in names
    quantized = [each for each in model.graph.initializer if each.name == "decoder/token_embedding/table.q8"]
    assert [tuple(each.dims) for each in quantized] == [(80, 1, 64)]
    assert wide_export.counts["int8"]["GatherBlockQuantized"] == 1
    assert "Transpose" not in wide_export.counts["int8"]


def test_the_graph_computes_with_the_dequantized_weights(tmp_path, monkeypatch):
    """Against Keras with the weights as the blocks round them, activations left in float32 (level 1)."""
    from tfgpt_export import quantize

    import tfgpt

    monkeypatch.setattr(quantize, "ACCURACY_LEVEL", 1)
    wide_export = export_wide(tmp_path)
    model_dir = wide_export.model_dir
    keras_model = tfgpt.CausalLM.from_pretrained(model_dir)
    model = onnx.load(wide_export.files["int8"])
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for name, variable in keras_model.named_weights().items():
        if f"{name}.q8" in tensors:
            rounded = dequantize(tensors[f"{name}.q8"], tensors[f"{name}.scales"])
            is_table = name.endswith("table")
            variable.assign(rounded if is_table else rounded[:, : variable.shape[0]].T)
        else:
            np.testing.assert_array_equal(tensors[name], np.asarray(variable))
    token_ids = np.arange(24)[None] % 80
    wanted = np.asarray(keras_model(token_ids))
    session = onnxruntime.InferenceSession(str(wide_export.files["int8"]))
    feeds = {
        "input_ids": token_ids,
        "attention_mask": np.ones_like(token_ids),
        "position_ids": np.arange(24)[None],
    }
    feeds |= {
        each.name: np.zeros((1, 2, 0, 32), np.float32)
        for each in session.get_inputs()
        if each.name.startswith("past")
    }
    found = session.run(["logits"], feeds)[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)  # logits up to 5: float32 sums
