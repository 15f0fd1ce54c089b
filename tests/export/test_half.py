"""float16: the graph, what is out of its range, and how near it is to float32."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tfgpt_export.half import half_tensor

from tfgpt.errors import InputError

FLOAT = onnx.TensorProto.FLOAT


def test_nothing_is_float32_any_more(exported):
    model = onnx.load(exported.files["fp16"])
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        tensors += [each.t for each in node.attribute if each.type == onnx.AttributeProto.TENSOR]
        casts = [each.i for each in node.attribute if node.op_type == "Cast" and each.name == "to"]
        assert FLOAT not in casts
    assert not [each.name for each in tensors if each.data_type == FLOAT]
    assert all(np.isfinite(numpy_helper.to_array(each)).all() for each in tensors)
    values = [*model.graph.input, *model.graph.output]
    assert not [each.name for each in values if each.type.tensor_type.elem_type == FLOAT]


def test_the_file_is_half_as_large(exported):
    sizes = {name: exported.files[name].stat().st_size for name in ("fp32", "fp16")}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]  # the graph itself, some kilobytes, does not shrink


def test_what_float16_cannot_hold_is_refused_by_name():
    edge = np.array([65504.0, -65519.0], np.float32)  # the second rounds to the largest there is
    np.testing.assert_array_equal(half_tensor("w", edge), np.array([65504, -65504], np.float16))
    with pytest.raises(InputError, match=r"decoder/x holds 6\.552e\+04, which float16 cannot .* leave fp16"):
        half_tensor("decoder/x", np.array([65520.0], np.float32))
    assert half_tensor("w", np.zeros((0, 3), np.float32)).shape == (0, 3)


def export_of(config, folder, change=lambda name, value: value):
    from tfgpt_export import export

    import tfgpt

    model = tfgpt.CausalLM(config, dtype="float32")
    for name, variable in model.named_weights().items():
        variable.assign(change(name, np.asarray(variable)))
    model.save_pretrained(folder / "model")
    return model, export(folder / "model", folder / "export", ("fp16",), saved_model=False)


def small_config(name, size, **changes):
    from tfgpt.families.registry import family

    sizes = {"vocabulary_size": 61, "context_length": 64, "num_layers": 3, "num_heads": 4, "hidden_dim": 32}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return family(name).config_of(size, **sizes, **ends, initializer_range=0.2, **changes)


def run(path, token_ids, mask):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {
        "input_ids": token_ids,
        "attention_mask": mask,
        "position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0),
    }
    for each in session.get_inputs()[3:]:
        assert each.type == "tensor(float16)"
        feeds[each.name] = np.zeros((len(token_ids), each.shape[1], 0, each.shape[3]), np.float16)
    return session.run(["logits"], feeds)[0]


def test_activations_near_the_end_of_the_range_do_not_overflow(tmp_path):
    """A residual stream of 2e4, as outliers of trained models are: its squares are 4e8, past float16."""

    def large(name, value):
        return value * 5e4 if name == "decoder/token_embedding/table" else value

    config = small_config("gptj", "6b", rotary_dim=4)
    model, artifact = export_of(config, tmp_path, large)  # verified against Keras within float16's rounding
    token_ids = np.random.default_rng(0).integers(0, 61, (3, 24))
    mask = np.ones((3, 24), np.int64)
    mask[1, :9], mask[2, :18] = 0, 0  # padded queries see nothing at all
    assert np.abs(np.asarray(model.decoder.token_embedding.table)).max() > 2e4
    logits = run(artifact.files["fp16"], token_ids, mask).astype(np.float32)
    assert np.isfinite(logits).all()
    wanted = np.asarray(model(token_ids, mask=mask))
    np.testing.assert_allclose(logits[mask == 1], wanted[mask == 1], rtol=0, atol=1e-2 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("name", "size", "changes"), [("gpt_neo", "125m", {"window": 5}), ("gpt_neox", "20b", {"rotary_dim": 4})]
)
def test_unscaled_scores_and_rotary_positions(tmp_path, name, size, changes):
    """GPT-Neo's scores are not divided by the root of the width; NeoX has tables of rotary positions."""
    _, artifact = export_of(small_config(name, size, **changes), tmp_path)
    entries = [entry for entry in artifact.verification if entry["artifact"] == "fp16"]
    assert [entry["kind"] for entry in entries] == ["lossless", "predictions", *["generation"] * 2]
    # Three layers round less than the fifty that the tolerance is for.
    assert entries[0]["max_relative_difference"] < 5e-3


def test_a_session_generates_from_it(exported):
    from tfgpt.generation.options import GenerationOptions
    from tfgpt.serving import Session

    options = GenerationOptions(max_new_tokens=12, end_of_text_ids=())
    prompts = [[1, 2, 3], [7], [5, 4, 3, 2, 1, 9]]
    session = Session.open(exported.output, precision="fp16")
    together = [each.token_ids for each in session.generate(prompts, options)]
    assert [len(each) for each in together] == [12, 12, 12]
    assert [session.generate([each], options)[0].token_ids for each in prompts] == together
