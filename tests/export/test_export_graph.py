"""The contract of the exported graph, and its numbers against transformers."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

TOTAL = "past_sequence_length + sequence_length"
LAYERS, HEADS, HEAD_DIM, VOCABULARY = 11, 3, 8, 97


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def fp32(exported):
    return session_of(exported.files["fp32"])


def empty_pasts(session, batch):
    names = [each.name for each in session.get_inputs() if each.name.startswith("past")]
    return {name: np.zeros((batch, HEADS, 0, HEAD_DIM), np.float32) for name in names}


def run(session, token_ids, mask, start=0, pasts=None):
    """Outputs in order; positions count the real tokens."""
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, start:]
    feeds = {"input_ids": token_ids[:, start:], "attention_mask": mask, "position_ids": positions}
    return session.run(None, feeds | (pasts or empty_pasts(session, len(token_ids))))


def stepwise(session, token_ids, mask, prefill):
    """Logits `[batch, length, vocabulary]` of a prefill and then one token at a time."""
    names = [each.name for each in session.get_inputs() if each.name.startswith("past")]
    pasts, parts, start = None, [], 0
    for end in range(prefill, token_ids.shape[1] + 1):
        logits, *presents = run(session, token_ids[:, :end], mask[:, :end], start, pasts)
        pasts, start = dict(zip(names, presents, strict=True)), end
        parts.append(logits)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_names_order_types_and_dimensions_are_the_contract(exported, precision):
    kind_of_float = "tensor(float16)" if precision == "fp16" else "tensor(float)"
    session = session_of(exported.files[precision])
    cache = [HEADS, HEAD_DIM]
    inputs = [
        ("input_ids", "tensor(int64)", ["batch_size", "sequence_length"]),
        ("attention_mask", "tensor(int64)", ["batch_size", TOTAL]),
        ("position_ids", "tensor(int64)", ["batch_size", "sequence_length"]),
    ]
    outputs = [("logits", kind_of_float, ["batch_size", "sequence_length", VOCABULARY])]
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            dims = ["batch_size", cache[0], "past_sequence_length", cache[1]]
            inputs.append((f"past_key_values.{layer}.{kind}", kind_of_float, dims))
            dims = ["batch_size", cache[0], TOTAL, cache[1]]
            outputs.append((f"present.{layer}.{kind}", kind_of_float, dims))
    assert [(each.name, each.type, each.shape) for each in session.get_inputs()] == inputs
    assert [(each.name, each.type, each.shape) for each in session.get_outputs()] == outputs


def test_no_other_tensor_is_named_like_a_cache(exported):
    model = onnx.load(exported.files["fp32"])
    inner = [each.name for each in model.graph.initializer]
    inner += [name for node in model.graph.node for name in node.output if not name.startswith("present.")]
    assert not [name for name in inner if ".key" in name or ".value" in name]


def test_one_operator_for_each_named_operation(exported):
    assert exported.counts["fp32"] == {
        "Add": 6 * LAYERS + 1,
        "MatMul": 4 * LAYERS + 1,
        "LayerNormalization": 2 * LAYERS + 1,
        "GroupQueryAttention": LAYERS,
        "Gelu": LAYERS,
        "Gather": 2,
        "Shape": 3,
        "Cast": 2,
        "Sub": 2,
        "Expand": 2,
        "Transpose": 1,
        "Squeeze": 1,
        "Concat": 1,
        "Mul": 1,
        "Unsqueeze": 1,
    }
    assert sum(exported.counts["fp32"].values()) <= 16 * LAYERS + 40
    assert exported.counts["fp16"] == exported.counts["fp32"]
    for precision in ("int8", "int4"):
        assert exported.counts[precision]["MatMulNBits"] == 4 * LAYERS
        # Rows of 24 are no whole block: the table stays as it is, for the lookup and for the head.
        assert exported.counts[precision]["MatMul"] == exported.counts[precision]["Transpose"] == 1


def test_versions_are_as_low_as_the_operators_allow(exported):
    model = onnx.load(exported.files["fp32"])
    assert {each.domain: each.version for each in model.opset_import} == {"": 20, "com.microsoft": 1}
    assert model.ir_version == 9
    assert {each.key: each.value for each in model.metadata_props} == {"tfgpt.shared_cache": "1"}


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_give_the_logits_of_transformers(fp32, recorded, side):
    mask = recorded[f"{side}_mask"]
    logits = run(fp32, recorded["token_ids"], mask)[0]
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[mask == 1], recorded[f"{side}_logits"][mask == 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefill", [1, 5, 12])
def test_the_cache_gives_the_logits_of_transformers(fp32, recorded, prefill):
    token_ids = recorded["token_ids"]
    logits = stepwise(fp32, token_ids, np.ones_like(token_ids), prefill)
    np.testing.assert_allclose(logits, recorded["logits"], rtol=0, atol=1e-5)


def test_a_left_padded_batch_token_by_token(fp32, recorded):
    token_ids, mask = recorded["token_ids"], recorded["left_mask"]
    logits = stepwise(fp32, token_ids, mask, 3)
    np.testing.assert_allclose(logits[mask == 1], recorded["left_logits"][mask == 1], rtol=0, atol=1e-5)


def test_padding_in_the_middle(fp32, recorded):
    # onnxruntime-genai pads on the right and then appends: its zeros end up between tokens.
    row = recorded["token_ids"][:1]
    holed = np.concatenate([row[:, :5], np.zeros((1, 3), np.int64), row[:, 5:]], axis=1)
    mask = np.ones_like(holed)
    mask[:, 5:8] = 0
    logits = run(fp32, holed, mask)[0][mask == 1]
    np.testing.assert_allclose(logits, recorded["logits"][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_no_row_depends_on_its_batch_mates(exported, recorded, precision):
    session = session_of(exported.files[precision])
    token_ids, mask = recorded["token_ids"], recorded["left_mask"]
    together = run(session, token_ids, mask)[0]
    for row in range(len(token_ids)):
        alone = run(session, token_ids[row : row + 1], mask[row : row + 1])[0]
        np.testing.assert_array_equal(
            together[row : row + 1][mask[row : row + 1] == 1], alone[mask[row : row + 1] == 1]
        )


def test_a_past_bound_as_its_own_present_is_written_in_place(fp32, recorded):
    token_ids = recorded["token_ids"][:1]
    mask = np.ones_like(token_ids)
    binding = fp32.io_binding()
    buffers = {}
    for name in empty_pasts(fp32, 1):
        buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.zeros((1, HEADS, 32, HEAD_DIM), np.float32)
        )
        binding.bind_ortvalue_input(name, buffers[name])
        binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffers[name])
    positions = np.arange(token_ids.shape[1])[None]
    parts = []
    for start, end in ((0, 7), (7, 8), (8, 12)):
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(token_ids[:, start:end]))
        binding.bind_cpu_input("attention_mask", np.ascontiguousarray(mask[:, :end]))
        binding.bind_cpu_input("position_ids", np.ascontiguousarray(positions[:, start:end]))
        binding.bind_output("logits")
        fp32.run_with_iobinding(binding)
        parts.append(binding.get_outputs()[-1].numpy())
    np.testing.assert_allclose(np.concatenate(parts, axis=1), recorded["logits"][:1], rtol=0, atol=1e-5)
    written = buffers["past_key_values.0.key"].numpy()
    assert np.abs(written[:, :, :12]).min() > 0 and not written[:, :, 12:].any()


def test_the_same_checkpoint_gives_the_same_file(exported, exportable_directory, tmp_path):
    """Whatever else the process made before."""
    from tfgpt_export import export

    export(exportable_directory, tmp_path / "again", ("fp32",), saved_model=False, verify=False)
    assert (tmp_path / "again/onnx/model.onnx").read_bytes() == exported.files["fp32"].read_bytes()


def test_fp32_holds_the_weights_of_the_checkpoint_once(exported, exportable_directory):
    from safetensors.numpy import load_file

    published = load_file(exportable_directory / "model.safetensors")
    model = onnx.load(exported.files["fp32"])
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder/")}
    assert len(weights) == len(published)
    np.testing.assert_array_equal(
        weights["decoder/token_embedding/table"], published["transformer.wte.weight"]
    )
    np.testing.assert_array_equal(
        weights["decoder/block_10/mlp/down/kernel"], published["transformer.h.10.mlp.c_proj.weight"]
    )
