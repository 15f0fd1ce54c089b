"""The export in plain onnxruntime, in an environment with numpy, onnxruntime and tokenizers alone."""

import numpy as np
import pytest

from benchmarks import peers
from tests.clients.conftest import output_of
from tests.conftest import ROOT
from tfgpt.generation.options import GenerationOptions
from tfgpt.serving import Session
from tfgpt.tokenizers.loading import load_tokenizer

pytestmark = pytest.mark.client("onnxruntime")

TEN_LINES = ROOT / "export/tfgpt_export/readme/python.py"
SIDES = ("none", "left", "left_alone", "right")


@pytest.fixture(scope="module")
def found(in_client, client_export, graph_file, request_file):
    return in_client("onnxruntime", "padded_rows.py", client_export / "onnx" / graph_file, request_file)


def test_tokens_are_keras_tokens_however_rows_are_padded(found, expected_tokens):
    for side in SIDES:
        assert found["tokens"][side] == expected_tokens, side


def test_logits_equal_keras(found, precision, keras_model, client_prompts):
    expected = np.stack([np.asarray(keras_model(np.array([ids])))[0, -1] for ids in client_prompts])
    if precision != "fp32":
        pytest.skip("what is quantized is compared with Keras by the export's own verification")
    for side in SIDES:
        # 12 layers of float32 in another order.
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found["logits"][side], expected, atol=tolerance, rtol=0)


def test_a_row_does_not_depend_on_the_rows_beside_it(found):
    """Bit for bit. Between sides float32 may round otherwise, and quantized activations make that a step."""
    assert found["logits"]["left"] == found["logits"]["left_alone"]


def test_the_ten_lines_of_the_readme(client_export, client_model, keras_model, precision, graph_file):
    """The program that the export's README shows, run in the export directory."""
    program = TEN_LINES.read_text(encoding="utf-8")
    assert program.count("onnx/model.onnx") == 1
    program = program.replace("onnx/model.onnx", f"onnx/{graph_file}")
    text = output_of([str(peers.python("onnxruntime")), "-c", program], directory=client_export)
    tokenizer = load_tokenizer(client_model)
    prompt = tokenizer.encode("def main(")
    options = GenerationOptions(max_new_tokens=48 - len(prompt))
    if precision == "fp32":
        [generation] = keras_model.generate(prompt, options, tokenizer=tokenizer)
    else:
        [generation] = Session.open(client_export, precision, num_threads=1).generate(prompt, options)
    assert text.removesuffix("\n") == "def main(" + generation.text
    assert len(generation.token_ids) > 20
