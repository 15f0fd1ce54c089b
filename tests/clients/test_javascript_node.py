"""The JavaScript clients in Node on the files of one export: onnxruntime-node, and transformers.js."""

import json
import shutil

import numpy as np
import pytest

from tests.clients.conftest import PRECISIONS
from tests.conftest import ROOT

pytestmark = pytest.mark.client("node")

README_PROGRAMS = ROOT / "export/tfgpt_export/readme"
# What transformers.js calls the precisions.
DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8", "int4": "q4"}
PROMPTS = ["def run(com", "import", "A model of twelve layers, and of four heads"]
NEW_TOKENS = 24
# Recorded models -> transformers.js's class. It knows no GPT-1 and no GPT-3, whose graphs are those of GPT-2.
FAMILIES = {
    "gpt1/base": "GPT2LMHeadModel",
    "gpt2/heads_of_8": "GPT2LMHeadModel",
    "gpt3/base": "GPT2LMHeadModel",
    "gpt_neo/base": "GPTNeoForCausalLM",
    "gptj/base": "GPTJForCausalLM",
    "gpt_neox/base": "GPTNeoXForCausalLM",
    "gpt_oss/base": "GptOssForCausalLM",
}

TOKENIZERS = ("gpt1", "gptj", "gpt_neox", "gpt_oss")


@pytest.fixture(scope="module")
def tokenizer(client_model):
    from tfgpt.tokenizers.loading import load_tokenizer

    return load_tokenizer(client_model)


def assert_greedy(keras_model, prompt, tokens):
    """Every token is the one that Keras finds most probable after those before it."""
    logits = np.asarray(keras_model(np.array([[*prompt, *tokens[:-1]]])))
    assert logits[0, len(prompt) - 1 :].argmax(axis=-1).tolist() == tokens


@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_logits_of_onnxruntime_node_are_those_of_keras(client_export, keras_model, in_node, rng, side):
    token_ids, mask = rng.integers(0, 319, (3, 14)), np.ones((3, 14), int)
    for row, missing in ((1, 5), (2, 11)):
        padding = {"left": slice(missing), "right": slice(14 - missing, 14), "none": slice(0)}[side]
        mask[row, padding] = 0
    request = json.dumps({"token_ids": token_ids.tolist(), "mask": mask.tolist(), "split": 9})
    found = in_node("onnxruntime_logits.mjs", client_export / "onnx/model.onnx", request)
    wanted = np.asarray(keras_model(token_ids, mask=mask))
    found = np.reshape(json.loads(found)["logits"], wanted.shape)
    # Logits of order 10, and float32 sums in another order in each of 12 layers.
    np.testing.assert_allclose(found[mask == 1], wanted[mask == 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("program", ["javascript.mjs", "javascript_onnxruntime.mjs"])
def test_the_programs_of_the_readme(client_export, keras_model, tokenizer, in_node, program):
    """In the export directory, as its README has it."""
    from tfgpt.generation.options import GenerationOptions

    prompt = tokenizer.encode("def main(")
    length = 32 if program == "javascript.mjs" else 48 - len(prompt)
    [wanted] = keras_model.generate([prompt], GenerationOptions(max_new_tokens=length))
    found = in_node(README_PROGRAMS / program, directory=client_export)
    assert found.startswith("def main(" + tokenizer.decode(wanted.token_ids))


@pytest.mark.parametrize("precision", list(DTYPES))
def test_the_pipeline_of_transformers_js(client_export, keras_model, tokenizer, in_node, precision):
    from tfgpt.generation.options import GenerationOptions
    from tfgpt.serving import Session

    if precision not in PRECISIONS:
        pytest.skip(f"the clients' export has no {precision}")
    request = json.dumps({"prompts": PROMPTS, "max_new_tokens": NEW_TOKENS})
    found = json.loads(in_node("transformers_generate.mjs", client_export, DTYPES[precision], request))
    prompt_ids = [tokenizer.encode(prompt) for prompt in PROMPTS]
    assert found["prompt_ids"] == prompt_ids and len(set(map(len, prompt_ids))) == 3
    # Padded on the left to the longest; each row is as it is alone, in Python and, in fp32, in Keras.
    assert found["together"] == found["alone"]
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, end_of_text_ids=())
    ours = Session.open(client_export, precision=precision).generate(prompt_ids, options)
    assert found["alone"] == [list(each.token_ids) for each in ours]
    if precision == "fp32":
        for prompt, tokens in zip(prompt_ids, found["alone"], strict=True):
            assert_greedy(keras_model, prompt, tokens)
    assert found["texts"] == [tokenizer.decode(each) for each in found["alone"]]


def test_weights_beside_their_graphs(export_in_two_files, keras_model, tokenizer, in_node):
    request = json.dumps({"prompts": PROMPTS[:1], "max_new_tokens": NEW_TOKENS})
    found = json.loads(in_node("transformers_generate.mjs", export_in_two_files, "fp32", request))
    assert_greedy(keras_model, found["prompt_ids"][0], found["alone"][0])
    looped = in_node(README_PROGRAMS / "javascript_onnxruntime.mjs", directory=export_in_two_files)
    assert looped.startswith("def main(")


def test_the_chat_template(client_export, keras_model, tokenizer, in_node):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Which layer is it?"},
    ]
    request = json.dumps({"messages": messages, "max_new_tokens": NEW_TOKENS})
    found = json.loads(in_node("transformers_chat.mjs", client_export, request))
    assert found["prompt"] == tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert found["prompt_ids"] == tokenizer.encode(found["prompt"])
    assert_greedy(keras_model, found["prompt_ids"], found["answer_ids"])
    answer = tokenizer.decode(found["answer_ids"])
    assert found["answer"] == {"role": "assistant", "content": answer}


def test_every_family(fixtures_directory, tmp_path, in_node, rng):
    from tfgpt_export import export

    from tfgpt.models.causal_lm import CausalLM

    # 7, 12 and 4 tokens, padded on the left; longer than the windows.
    token_ids, mask = rng.integers(1, 61, (3, 12)), np.ones((3, 12), int)
    mask[0, :5] = mask[2, :8] = 0
    for family in FAMILIES:
        output = tmp_path / family
        export(fixtures_directory / family, output, precisions=("fp32",), saved_model=False, verify=False)
    request = {
        "directories": [str(tmp_path / family) for family in FAMILIES],
        "token_ids": token_ids.tolist(),
        "mask": mask.tolist(),
        "max_new_tokens": NEW_TOKENS,
    }
    found = json.loads(in_node("transformers_families.mjs", json.dumps(request)))
    for family, name in FAMILIES.items():
        model = CausalLM.from_pretrained(fixtures_directory / family)
        answers = found[str(tmp_path / family)]
        assert answers["class"] == name
        for row, kept, tokens in zip(token_ids, mask, answers["tokens"], strict=True):
            assert len(tokens) == NEW_TOKENS
            assert_greedy(model, row[kept == 1].tolist(), tokens)


def test_the_tokenizer_of_every_family(fixtures_directory, tmp_path, in_node):
    """What transformers makes of 87 texts and 40 rows of ids each, with the files as an export has them."""
    from tfgpt_export.keras_model import KerasModel
    from tfgpt_export.package import package_stage
    from tfgpt_export.recipe import Artifact, ExportRecipe

    from tfgpt.checkpoints.directory import read_model_config

    for name in TOKENIZERS:
        model, output = tmp_path / name, tmp_path / f"{name}_export"
        shutil.copytree(fixtures_directory / "tokenizers" / name, model)
        shutil.copyfile(fixtures_directory / name / "base/config.json", model / "config.json")
        if name == "gpt1":  # As published.
            (model / "tokenizer_config.json").write_text('{"model_max_length": 512}')
        output.mkdir()
        facts = read_model_config(model)
        package_stage(Artifact(model, output, ExportRecipe(), *facts, KerasModel(model)))
        shutil.copyfile(model / "records.json", output / "records.json")
    exports = [tmp_path / f"{name}_export" for name in TOKENIZERS]
    found = json.loads(in_node("transformers_tokenizers.mjs", *exports))
    assert found == {str(export): {"encoded": [], "decoded": [], "count": 127} for export in exports}
    # transformers goes by the class, without one by the model_type: GPT-2's would split GPT-1's words.
    settings = json.loads((exports[0] / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and settings["model_max_length"] == 512
