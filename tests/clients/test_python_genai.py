"""The export in onnxruntime-genai: every search, the chat template, JSON by a schema, adapters."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.clients.conftest import CHAT_TEMPLATE, NUM_NEW_TOKENS
from tfgpt.generation.options import GenerationOptions
from tfgpt.models.causal_lm import CausalLM
from tfgpt.tokenizers.loading import load_tokenizer

pytestmark = pytest.mark.client("genai")

NUM_BEAMS, BEAM_LENGTH = 4, 12
CACHES = ("shared", "copied")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["one", "two"]}, "on": {"type": "boolean"}},
    "required": ["name", "on"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # else random weights write line after empty line
}
MESSAGES = [{"role": "user", "content": "Hello, it's 10!"}, {"role": "assistant", "content": "naïve — 日本"}]
TEXTS = ["def main(", " it's  10\n\n\tnaïve — 日本語 👍🏽 ", "a<|endoftext|>b"]
RANK = 4


@pytest.fixture(scope="module")
def found(in_client, client_export, keras_model, graph_file, request_file):
    padding = keras_model.config.pad_token_id
    return in_client("genai", "genai_search.py", client_export, graph_file, request_file, padding)


@pytest.fixture(scope="module")
def text_found(in_client, client_export, tmp_path_factory):
    request = tmp_path_factory.mktemp("genai") / "request.json"
    values = {"texts": TEXTS, "messages": MESSAGES, "schema": json.dumps(SCHEMA), "seeds": list(range(6))}
    request.write_text(json.dumps(values))
    return in_client("genai", "genai_text.py", client_export, "model.onnx", request)


@pytest.mark.parametrize("cache", CACHES)
def test_greedy_tokens_are_keras_tokens_alone_and_in_a_padded_batch(found, expected_tokens, cache):
    assert found[cache]["alone"] == expected_tokens
    assert found[cache]["batch"] == expected_tokens


@pytest.mark.parametrize("cache", CACHES)
def test_a_sequence_can_be_rewound_and_continued(found, expected_tokens, cache):
    assert found[cache]["continued"] == expected_tokens[0]


@pytest.fixture(scope="module")
def keras_beam(keras_model, client_prompts):
    return best_beam(keras_model, client_prompts[0], BEAM_LENGTH)


@pytest.mark.parametrize("cache", CACHES)
def test_beams_are_those_of_a_search_without_a_cache(found, keras_beam, precision, cache):
    if precision == "fp32":
        assert found[cache]["beams"] == keras_beam
    assert found[cache]["beams"] == found["shared"]["beams"]
    assert len(found[cache]["beams"]) == BEAM_LENGTH


@pytest.mark.parametrize("cache", CACHES)
def test_samples_follow_their_seed_and_stay_within_top_k(
    found, keras_model, client_prompts, precision, cache
):
    first, second, again = found[cache]["sampled"]
    assert first == again
    assert first != second
    if precision == "fp32":
        for sampled in (first, second):
            logits = logits_after(keras_model, client_prompts[0], sampled)
            ranks = [int((row > row[token]).sum()) for row, token in zip(logits, sampled, strict=True)]
            assert max(ranks) < 5
            assert max(ranks) > 0


def test_its_tokenizer_gives_the_same_ids(text_found, client_model):
    tokenizer = load_tokenizer(client_model)
    assert text_found["ids"] == [tokenizer.encode(text) for text in TEXTS]


def test_chat_template(text_found, client_model):
    tokenizer = load_tokenizer(client_model)
    assert tokenizer.settings.chat_templates == {"default": CHAT_TEMPLATE}
    assert text_found["chat"] == tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)


def test_guidance_by_a_json_schema(text_found):
    guided = [json.loads(text) for text in text_found["guided"]]
    for value in guided:
        assert set(value) == {"name", "on"}
        assert value["name"] in ("one", "two")
        assert isinstance(value["on"], bool)
    assert len({json.dumps(value) for value in guided}) > 1


def test_adapters(
    in_client, client_export, client_model, client_prompts, keras_tokens, request_file, tmp_path
):
    """LoRA matrices as inputs of the graph: what Keras gives with the products added to its kernels."""
    export = tmp_path / "export"
    shutil.copytree(client_export, export, ignore=shutil.ignore_patterns("saved_model", "*.onnx"))
    matrices = add_adapter_inputs(client_export / "onnx/model.onnx", export / "onnx/model.onnx")
    np.savez(tmp_path / "adapter.npz", **matrices)
    found = in_client("genai", "genai_adapter.py", export, tmp_path / "adapter.npz", request_file)
    assert found["plain"] == found["plain_again"] == keras_tokens

    model = CausalLM.from_pretrained(client_model)
    for name, variable in model.named_weights().items():
        if f"{name}.lora_a" in matrices:
            change = matrices[f"{name}.lora_a"] @ matrices[f"{name}.lora_b"]
            variable.assign(np.asarray(variable) + change)
    options = GenerationOptions(max_new_tokens=NUM_NEW_TOKENS, end_of_text_ids=())
    expected = [list(model.generate(prompt, options)[0].token_ids) for prompt in client_prompts]
    assert found["adapted"] == expected
    assert expected != keras_tokens


def add_adapter_inputs(source, target) -> dict[str, np.ndarray]:
    """Gives the graph's first product of every layer LoRA inputs that are zero by default.

        x ──► MatMul(kernel) ──► Add ──►     A [width, rank] and B [rank, 3 width] are inputs that have
        └───► MatMul(A) ──► MatMul(B) ──┘     initializers as well

    Returns random matrices by the names of those inputs.
    """
    model = onnx.load(source)
    graph, random, matrices = model.graph, np.random.default_rng(3), {}
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        shape = shapes.get(node.input[1]) if node.op_type == "MatMul" else None
        if shape is None or shape[1] != 3 * shape[0]:
            continue
        kernel, output, base = node.input[1], node.output[0], f"{node.output[0]}.base"
        names = (f"{kernel}.lora_a", f"{kernel}.lora_b")
        for name, dims in zip(names, ((shape[0], RANK), (RANK, shape[1])), strict=True):
            matrices[name] = random.normal(size=dims, scale=0.2).astype(np.float32)
            graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims))
            graph.initializer.append(numpy_helper.from_array(np.zeros(dims, np.float32), name))
        node.output[0] = base
        nodes += [
            helper.make_node("MatMul", [node.input[0], names[0]], [f"{kernel}.low"]),
            helper.make_node("MatMul", [f"{kernel}.low", names[1]], [f"{kernel}.change"]),
            helper.make_node("Add", [base, f"{kernel}.change"], [output]),
        ]
    assert len(matrices) == 2 * 12
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save_model(model, target)
    return matrices


def logits_after(model, prompt, tokens) -> np.ndarray:
    """Keras's logits at the places where `tokens` were chosen: [tokens, vocabulary]."""
    logits = np.asarray(model(np.array([[*prompt, *tokens]])))[0]
    return logits[len(prompt) - 1 : -1]


def best_beam(model, prompt, count) -> list[int]:
    """The best of `NUM_BEAMS` beams by the sum of log probabilities, every text computed as a whole."""
    beams = [(0.0, list(prompt))]
    for _ in range(count):
        logits = np.asarray(model(np.array([text for _, text in beams])))[:, -1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))  # [beams, vocabulary]
        candidates = [
            (total + row[token], [*text, int(token)])
            for (total, text), row in zip(beams, scores, strict=True)
            for token in row.argsort()[-NUM_BEAMS:]
        ]
        beams = sorted(candidates, key=lambda each: -each[0])[:NUM_BEAMS]
    return beams[0][1][len(prompt) :]
