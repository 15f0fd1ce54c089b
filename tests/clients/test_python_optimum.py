"""The export in optimum-onnx and transformers' pipeline, against PyTorch's model of the same weights."""

import json

import numpy as np
import pytest
from tfgpt_export import export

from tests.clients.conftest import NUM_NEW_TOKENS

pytestmark = pytest.mark.client("optimum")

TEXTS = ["def main(", "import os", "Each client runs"]
# The families that optimum knows, and those whose export calls itself GPT-2; each with 3 layers or 11.
FAMILIES = (
    "gpt1/base",
    "gpt2/heads_of_8",
    "gpt3/base",
    "gpt_neo/base",
    "gptj/base",
    "gpt_neox/base",
    "gpt_oss/base",
)


@pytest.fixture(scope="module")
def found(in_client, client_export, client_model, graph_file, client_prompts, tmp_path_factory):
    request = tmp_path_factory.mktemp("optimum") / "request.json"
    values = {"prompts": client_prompts, "num_new_tokens": NUM_NEW_TOKENS, "texts": TEXTS}
    request.write_text(json.dumps(values))
    return in_client("optimum", "optimum_generate.py", client_export, graph_file, client_model, request)


def test_greedy_tokens_alone_and_left_padded(found, expected_tokens, precision):
    assert found["export"]["alone"] == expected_tokens
    assert found["export"]["left"] == expected_tokens
    if precision == "fp32":
        assert found["torch"]["alone"] == found["torch"]["left"] == expected_tokens


def test_logits_of_twelve_layers_equal_pytorch(found, precision):
    if precision != "fp32":
        pytest.skip("what is quantized is compared with Keras by the export's own verification")
    for side in ("left", "right"):
        logits, expected = (np.array(found[name]["logits"][side]) for name in ("export", "torch"))
        # 12 layers of float32 in another order.
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_beams_of_a_padded_batch(found, precision):
    assert [len(row) for row in found["export"]["beams"]] == [NUM_NEW_TOKENS] * 4
    if precision == "fp32":
        assert found["export"]["beams"] == found["torch"]["beams"]


def test_pipeline(found, precision):
    for start, text in zip(TEXTS, found["export"]["texts"], strict=True):
        assert text.startswith(start) and len(text) > len(start) + 10
    if precision == "fp32":
        assert found["export"]["texts"] == found["torch"]["texts"]


@pytest.fixture(scope="module")
def families_found(in_client, fixtures_directory, tmp_path_factory):
    folder, cases = tmp_path_factory.mktemp("families"), {}
    for name in FAMILIES:
        target = folder / name
        export(fixtures_directory / name, target, precisions=("fp32",), saved_model=False, verify=False)
        recorded = expected_of(fixtures_directory / name)
        cases[name] = {
            "export": str(target),
            "token_ids": recorded["token_ids"].tolist(),
            "mask": recorded["left_mask"].tolist(),
            "num_new_tokens": recorded["greedy"].shape[1],
        }
    request = folder / "request.json"
    request.write_text(json.dumps(cases))
    return in_client("optimum", "optimum_families.py", request)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_equal_the_recorded_reference(families_found, fixtures_directory, name):
    found, expected = families_found[name], expected_of(fixtures_directory / name)
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5, rtol=0)
    real = expected["left_mask"].astype(bool)
    left, expected_left = np.array(found["left_logits"])[real], expected["left_logits"][real]
    np.testing.assert_allclose(left, expected_left, atol=1e-5, rtol=0)
    assert found["greedy"] == expected["greedy"].tolist()
    assert found["left_greedy"] == expected["left_greedy"].tolist()


def expected_of(directory) -> dict[str, np.ndarray]:
    with np.load(directory / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)
