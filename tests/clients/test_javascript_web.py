"""onnxruntime-web (WebAssembly) in a headless Chromium: the demo page of examples/web, the runtime alone."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from benchmarks import peers
from tests.clients.conftest import PRECISIONS
from tests.conftest import ROOT

pytestmark = pytest.mark.client("node")

# What transformers.js calls the precisions; its default in browsers first.
DTYPES = {"int8": "q8", "int4": "q4", "fp16": "fp16", "fp32": "fp32"}
PROMPT = "def run(com"
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def chromium():
    """The path of the browser."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("found no chromium: install one (Debian's package is called chromium)")


@pytest.fixture(scope="module")
def served():
    """`served(export_dir)` starts the server of the demo page and returns its address."""
    processes = []

    def start(export_dir):
        command = [sys.executable, str(ROOT / "examples/web/serve.py"), str(export_dir), "--port", "0"]
        command += ["--node-modules", str(peers.node_folder() / "node_modules")]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1].stdout.readline().strip()

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=10)


@pytest.fixture(scope="module")
def as_wasm_computes(client_export, tmp_path_factory):
    """The clients' export with activations left in float32.

    WebAssembly has no kernel that rounds them to 8 bits, as accuracy level 4 asks: it multiplies in float32
    with the weights that the blocks stand for.
    """
    output = tmp_path_factory.mktemp("float32") / "export"
    shutil.copytree(client_export, output, ignore=shutil.ignore_patterns("saved_model"))
    for path in output.glob("onnx/*.onnx"):
        model = onnx.load(path)
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 0
        onnx.save(model, path)
    return output


@pytest.fixture(scope="module", params=["one file", "two files"])
def address(request, served, client_export):
    """Of the page, with a model whose weights are within its graph, or beside it."""
    one = request.param == "one file"
    return served(client_export if one else request.getfixturevalue("export_in_two_files"))


@pytest.fixture(scope="module")
def completion(client_model):
    """`completion(model)` is the greedy text of a Keras model or of a session after the prompt."""
    from tfgpt.generation.options import GenerationOptions
    from tfgpt.tokenizers.loading import load_tokenizer

    tokenizer, options = load_tokenizer(client_model), GenerationOptions(max_new_tokens=NEW_TOKENS)

    def complete(model):
        [found] = model.generate([tokenizer.encode(PROMPT)], options)
        return tokenizer.decode(found.token_ids)

    return complete


def test_the_demo_page(chromium, address, in_node, as_wasm_computes, keras_model, completion, tmp_path):
    from tfgpt.serving import Session

    offered = [name for name in DTYPES if name in PRECISIONS]
    request = {
        "prompt": PROMPT,
        "max_new_tokens": NEW_TOKENS,
        "dtypes": [DTYPES[name] for name in offered],
        "screenshot": str(tmp_path / "page.png"),
    }
    found = json.loads(in_node("browser_page.mjs", chromium, address, json.dumps(request)))
    assert found["elsewhere"] == [] and found["problems"] == []
    assert found["dtypes"] == request["dtypes"] and found["chosen"] == "q8"
    # The server's headers give WebAssembly its threads.
    threads = f", {min(os.cpu_count(), 4)} thread"
    assert all(state.startswith("Ready: 128 tokens of context" + threads) for state in found["ready"])
    written = dict(zip(offered, found["completions"], strict=True))
    assert written.pop("fp32") == completion(keras_model)
    for precision, text in written.items():
        assert text == completion(Session.open(as_wasm_computes, precision)), precision
    # A long text, interrupted.
    assert found["stopped"]["state"] == "Stopped"
    assert int(found["stopped"]["speed"].split(" token")[0]) < 100


def test_logits_of_onnxruntime_web_are_those_of_keras(
    chromium, served, in_node, export_in_two_files, keras_model, rng
):
    token_ids, mask = rng.integers(0, 319, (3, 14)), np.ones((3, 14), int)
    mask[1, :5] = mask[2, :11] = 0
    batch = {"token_ids": token_ids.tolist(), "mask": mask.tolist(), "split": 9}
    request = json.dumps({"file": "model.onnx", "data": "model.onnx_data", **batch})
    found = json.loads(in_node("browser_logits.mjs", chromium, served(export_in_two_files), request))
    assert found["elsewhere"] == [] and found["problems"] == []
    wanted = np.asarray(keras_model(token_ids, mask=mask))
    logits = np.reshape(found["logits"], wanted.shape)
    # Logits of order 10, and float32 sums in another order in each of 12 layers.
    np.testing.assert_allclose(logits[mask == 1], wanted[mask == 1], rtol=0, atol=1e-4)
