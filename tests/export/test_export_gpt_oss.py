"""The exported gpt-oss against transformers' recorded numbers, and its operators."""

import numpy as np
import onnxruntime
import pytest

HEAD_DIM = 16


@pytest.fixture(scope="module", params=["base", pytest.param("others", marks=pytest.mark.slow)])
def exported(request, fixtures_directory, tmp_path_factory):
    """(artifact, session, recorded numbers)."""
    import shutil

    from tfgpt_export import export

    source, folder = fixtures_directory / "gpt_oss" / request.param, tmp_path_factory.mktemp("gpt_oss")
    (folder / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, folder / "model" / name)
    artifact = export(folder / "model", folder / "out", precisions=("fp32",), saved_model=False)
    session = onnxruntime.InferenceSession(str(artifact.files["fp32"]), providers=["CPUExecutionProvider"])
    with np.load(source / "expected.npz", allow_pickle=False) as file:
        return artifact, session, dict(file)


def run(session, token_ids, mask, start=0, pasts=None):
    """Outputs in order; positions count the real tokens."""
    if pasts is None:
        inputs = [each for each in session.get_inputs() if each.name.startswith("past")]
        pasts = {
            each.name: np.zeros((len(token_ids), each.shape[1], 0, HEAD_DIM), np.float32) for each in inputs
        }
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, start:]
    feeds = {"input_ids": token_ids[:, start:], "attention_mask": mask, "position_ids": positions}
    return session.run(None, feeds | pasts)


def test_one_operator_for_each_named_operation(exported):
    artifact, _, _ = exported
    layers, counts = artifact.config.num_layers, artifact.counts["fp32"]
    wanted = {"GroupQueryAttention": layers, "RotaryEmbedding": 2 * layers, "Split": layers, "MoE": layers}
    wanted |= {"Gemm": layers, "RMSNormalization": 2 * layers + 1, "MatMul": 2 * layers + 1, "Gather": 1}
    assert {name: counts.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("side", ["", "left_", "right_"])
def test_logits(exported, side):
    _, session, recorded = exported
    mask = recorded[f"{side}mask"] if side else np.ones_like(recorded["token_ids"])
    logits = run(session, recorded["token_ids"] * mask, mask)[0]
    np.testing.assert_allclose(logits[mask == 1], recorded[f"{side}logits"][mask == 1], rtol=0, atol=1e-5)


def test_greedy_tokens_of_a_left_padded_batch(exported):
    """64 tokens one by one, past the window and past YaRN's original context."""
    _, session, recorded = exported
    mask = recorded["left_mask"]
    text, pasts, start = recorded["token_ids"] * mask, None, 0
    names = [each.name for each in session.get_inputs() if each.name.startswith("past")]
    for _ in range(64):
        logits, *presents = run(session, text, mask, start, pasts)
        pasts, start = dict(zip(names, presents, strict=True)), text.shape[1]
        text = np.concatenate([text, logits[:, -1:].argmax(axis=-1)], axis=1)
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
    np.testing.assert_array_equal(text[:, -64:], recorded["left_greedy"])
