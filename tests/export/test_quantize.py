"""8-bit and 4-bit weights: the blocks, the rewritten graph, and what the kernel computes with them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tfgpt_export import blocks
from tfgpt_export.blocks import BlockFormat, quantize_blocks


def dequantize(packed, scales, bits):
    """float32 `[rows, blocks * block_size]`, written from the definition."""
    numbers = np.zeros((*scales.shape, packed.shape[2] * 8 // bits), np.float32)
    if bits == 8:
        numbers[:] = packed
    else:
        numbers[:, :, 0::2], numbers[:, :, 1::2] = packed % 16, packed // 16
    return ((numbers - 2 ** (bits - 1)) * scales[:, :, None]).reshape(len(packed), -1)


def test_a_block_by_hand():
    weight = np.array([[127.0, -63.5, 0.0, 1.4] * 4], np.float32)
    packed, scales = quantize_blocks(weight, BlockFormat(8, 16))
    assert scales.tolist() == [[1.0]]
    assert packed[0, 0, :4].tolist() == [255, 64, 128, 129]  # -63.5 rounds to the even -64


def test_two_numbers_to_a_byte_by_hand():
    weight = np.array([[4.0, -1.0, 0.4, -3.9] * 4], np.float32)
    packed, scales = quantize_blocks(weight, BlockFormat(4, 16))
    # The largest becomes -8: 0, and 10; -1, and then 8 - (-3.9 / -0.5 rounded) = 16, which 4 bits lack: 15.
    assert scales.tolist() == [[-0.5]]
    assert packed[0, 0, :2].tolist() == [0 | 10 << 4, 7 | 15 << 4]


@pytest.mark.parametrize("bits", [8, 4])
def test_the_error_is_at_most_half_a_step(rng, bits):
    weight = rng.standard_normal((7, 96), np.float32)
    packed, scales = quantize_blocks(weight, BlockFormat(bits, 32))
    assert packed.shape == (7, 3, 4 * bits) and scales.shape == (7, 3)
    error = np.abs(dequantize(packed, scales, bits) - weight).reshape(7, 3, 32)
    # In 4 bits the end opposite to the largest number is a whole step short.
    step = np.abs(scales)[:, :, None] * (0.5001 if bits == 8 else 1.0001)
    assert (error <= step).all()
    assert (error <= 0.5001 * np.abs(scales)[:, :, None]).mean() > 0.98


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_and_a_last_block_that_is_not_full(rng, bits):
    weight = rng.standard_normal((3, 40), np.float32)
    weight[1] = 0
    packed, scales = quantize_blocks(weight, BlockFormat(bits, 32))
    assert packed.shape == (3, 2, 4 * bits)
    zero = 128 if bits == 8 else 0x88
    assert (packed[1] == zero).all() and (scales[1] == 0).all()
    assert (packed[:, 1, bits:] == zero).all()


def test_a_weight_is_rounded_some_rows_at_a_time(rng, monkeypatch):
    weight = rng.standard_normal((50, 64), np.float32)
    form = BlockFormat(4, 32)
    whole = quantize_blocks(weight, form)
    monkeypatch.setattr(blocks, "NUMBERS_AT_ONCE", 200)
    seen = []

    def noting(part, form):
        seen.append(part.size)
        return blocks.nearest(part, form)

    by_parts = quantize_blocks(weight, form, noting)
    assert max(seen) <= 200 and sum(seen) == weight.size
    np.testing.assert_array_equal(by_parts[0], whole[0])
    np.testing.assert_array_equal(by_parts[1], whole[1])


def test_unpacking_is_the_inverse(rng):
    for form in (BlockFormat(8, 16), BlockFormat(4, 32)):
        numbers = rng.integers(-form.zero_point, form.zero_point, (3, 2, form.block_size)).astype(np.float32)
        np.testing.assert_array_equal(blocks.unpack(blocks.pack(numbers, form), form), numbers)


def export_wide(folder, name="gpt2", size="124m", **changes):
    """The int8 and int4 exports of a GPT-2 whose table divides into blocks."""
    from tfgpt_export import export

    import tfgpt
    from tfgpt.families.registry import family

    sizes = {"vocabulary_size": 80, "context_length": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 64}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.2}
    config = family(name).config_of(size, **sizes, **changes)
    tfgpt.CausalLM(config).save_pretrained(folder / "model")
    return export(
        folder / "model", folder / "export", precisions=("int8", "int4"), saved_model=False, verify=False
    )


@pytest.fixture(scope="module")
def wide_export(tmp_path_factory):
    return export_wide(tmp_path_factory.mktemp("wide"))


TABLE = "decoder/token_embedding/table"


@pytest.mark.parametrize(
    ("precision", "name", "dims"), [("int8", ".q8", (80, 1, 64)), ("int4", ".q4", (80, 2, 16))]
)
def test_the_table_is_stored_once_for_lookup_and_head(wide_export, precision, name, dims):
    model = onnx.load(wide_export.files[precision])
    table = {
        each.name: tuple(each.dims) for each in model.graph.initializer if each.name.startswith(TABLE + ".q")
    }
    assert TABLE not in {each.name for each in model.graph.initializer}
    assert table == {TABLE + name: dims, f"{TABLE}{name}.shape": (2,)}
    assert wide_export.counts[precision]["GatherBlockQuantized"] == 1
    assert "Transpose" not in wide_export.counts[precision]


@pytest.mark.parametrize("bits", [8, 4])
def test_the_graph_computes_with_the_dequantized_weights(tmp_path, monkeypatch, bits):
    """Against Keras with the weights as the blocks round them, activations left in float32 (level 1)."""
    from tfgpt_export import quantize

    import tfgpt

    monkeypatch.setattr(quantize, "ACCURACY_LEVEL", 1)
    artifact = export_wide(tmp_path)
    path = artifact.files[f"int{bits}"]
    keras_model = tfgpt.CausalLM.from_pretrained(artifact.model_dir)
    model = onnx.load(path)
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    quantized = 0
    for name, variable in keras_model.named_weights().items():
        if f"{name}.q{bits}" in tensors:
            quantized += 1
            rounded = dequantize(tensors[f"{name}.q{bits}"], tensors[f"{name}.scales"], bits)
            is_table = name.endswith("table")
            variable.assign(rounded if is_table else rounded[:, : variable.shape[0]].T)
        else:
            np.testing.assert_array_equal(tensors[name], np.asarray(variable))
    assert quantized == 4 * 2 + 1
    token_ids = np.arange(24)[None] % 80
    wanted = np.asarray(keras_model(token_ids))
    session = onnxruntime.InferenceSession(str(path))
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


def test_an_untied_table_is_in_blocks_too(tmp_path):
    artifact = export_wide(tmp_path, "gptj", "6b", rotary_dim=8)
    for precision in ("int8", "int4"):
        assert artifact.counts[precision]["GatherBlockQuantized"] == 1
        assert "Gather" not in artifact.counts[precision]
