"""The directories for Triton and TF Serving: their own schemas read them, and what they name is there."""

import hashlib
import json

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tfgpt_export import export

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.models.causal_lm import CausalLM
from tfgpt.tokenizers.byte_pair import BytePairTokenizer

NAME = "words"
TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
OPTIONS = ("end_of_text_id", "max_new_tokens", "seed", "temperature", "top_k", "top_p")


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train(["the words of the words"] * 3, 262)


@pytest.fixture(scope="module")
def model(tokenizer):
    model = CausalLM(
        ModelConfig(tokenizer.vocabulary_size, 32, 2, 2, 16, eos_token_id=tokenizer.end_of_text_id)
    )
    random = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(variable + random.normal(size=variable.shape) * 0.3)
    return model


@pytest.fixture(scope="module")
def exported(model, tokenizer, tmp_path_factory):
    """An export with both layouts; its ONNX files have their weights beside them, as large models do."""
    from tfgpt_export import weights

    folder = tmp_path_factory.mktemp("servers")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "SINGLE_FILE_BYTES", 0)
        layouts = ("triton", "tfserving")
        export(folder / "model", folder / NAME, verify=False, layouts=layouts)
    return folder / NAME


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(str(exported / f"tfserving/{NAME}/1")).signatures


@pytest.mark.client("triton")
def test_triton_reads_the_configurations(exported, in_client):
    found = in_client("triton", "triton_config.py", exported / "triton")
    assert sorted(found) == [f"{NAME}_{each}" for each in ("fp32", "generate", "int8", "text")]
    assert all(config["name"] == name for name, config in found.items())
    for precision in ("fp32", "int8"):
        config = found[f"{NAME}_{precision}"]
        assert config["backend"] == "onnxruntime" and config.get("max_batch_size", 0) == 0
        session = onnxruntime.InferenceSession(exported / f"triton/{NAME}_{precision}/1/model.onnx")
        for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
            wanted = [
                {
                    "name": tensor.name,
                    "data_type": TYPES[tensor.type],
                    "dims": [str(dim if isinstance(dim, int) else -1) for dim in tensor.shape],
                }
                for tensor in tensors
            ]
            assert config[kind] == wanted
    assert found[f"{NAME}_fp32"]["input"][3]["dims"] == ["-1", "2", "-1", "8"]


@pytest.mark.client("triton")
def test_triton_calls_the_signatures_that_generate(exported, in_client, signatures):
    found = in_client("triton", "triton_config.py", exported / "triton")
    text, ids = found[f"{NAME}_text"], found[f"{NAME}_generate"]
    for config, signature in ((text, "generate_text"), (ids, "generate")):
        assert config["platform"] == "tensorflow_savedmodel"
        assert config["parameters"]["TF_SIGNATURE_DEF"] == {"string_value": signature}
        names = {tensor["name"] for tensor in config["input"]}
        assert names == set(signatures[signature].structured_input_signature[1])
        assert {tensor["name"] for tensor in config["output"]} == set(
            signatures[signature].structured_outputs
        )
    assert text["max_batch_size"] == 16 and "dynamic_batching" in text
    assert {"name": "texts", "data_type": "TYPE_STRING", "dims": ["1"], "reshape": {}} in text["input"]
    assert ids.get("max_batch_size", 0) == 0
    assert {"name": "input_ids", "data_type": "TYPE_INT64", "dims": ["-1", "-1"]} in ids["input"]


def test_triton_runs_the_same_graph(exported):
    ids = np.array([[5, 6, 7]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(3)[None]}
    for precision, file in (("fp32", "model.onnx"), ("int8", "model_quantized.onnx")):
        found = []
        for path in (exported / "onnx" / file, exported / f"triton/{NAME}_{precision}/1/model.onnx"):
            session = onnxruntime.InferenceSession(path)
            past = {each.name: np.zeros((1, 2, 0, 8), np.float32) for each in session.get_inputs()[3:]}
            found.append(session.run(["logits"], feeds | past)[0])
        np.testing.assert_array_equal(*found)


def test_weights_are_stored_once_and_checksums_hold(exported):
    same = {
        "onnx/model.onnx_data": f"triton/{NAME}_fp32/1/model.onnx_data",
        "onnx/model_quantized.onnx_data": f"triton/{NAME}_int8/1/model_quantized.onnx_data",
    }
    data = "variables/variables.data-00000-of-00001"
    for target in (
        f"tfserving/{NAME}/1/{data}",
        f"triton/{NAME}_text/1/model.savedmodel/{data}",
        f"triton/{NAME}_generate/1/model.savedmodel/{data}",
    ):
        assert (exported / target).samefile(exported / "saved_model/1" / data)
    for source, target in same.items():
        assert (exported / source).samefile(exported / target)
    lines = (exported / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ", 1)) for line in lines)
    for name, digest in listed.items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest, name
    assert f"triton/{NAME}_text/config.pbtxt" in listed and "tfserving/models.config" in listed


@pytest.mark.client("tfserving")
def test_tfserving_reads_the_list_of_models(exported, in_client):
    found = in_client("tfserving", "tfserving_config.py", exported / "tfserving/models.config")
    assert found == {
        "model_config_list": {
            "config": [{"name": NAME, "base_path": f"/models/{NAME}", "model_platform": "tensorflow"}]
        }
    }
    assert (exported / f"tfserving/{NAME}/1/saved_model.pb").is_file()


def definitions(exported):
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((exported / f"tfserving/{NAME}/1/saved_model.pb").read_bytes())
    [graph] = content.meta_graphs
    assert "serve" in graph.meta_info_def.tags
    return graph.signature_def


def test_signatures_fit_the_predict_api(exported):
    """Row format wants the batch first in every tensor; names that end in _bytes would be base64."""
    found = definitions(exported)
    for name in ("serving_default", "generate", "generate_text", "encode", "decode"):
        assert found[name].method_name == "tensorflow/serving/predict"
        tensors = {**found[name].inputs, **found[name].outputs}
        assert all(tensor.tensor_shape.dim[0].size == -1 for tensor in tensors.values()), name
        assert not any(key.endswith("_bytes") for key in tensors)
    # What a request may leave out.
    for name in ("generate", "generate_text"):
        assert sorted(found[name].defaults) == sorted(OPTIONS)


def predict(exported, signatures, body):
    """What POST /v1/models/NAME:predict does with a body in row format, and its answer."""
    request = json.loads(body)
    name = request.get("signature_name", "serving_default")
    definition, rows = definitions(exported)[name], request["instances"]
    given = {key: tf.constant(tf.make_ndarray(value)) for key, value in definition.defaults.items()}
    for key in rows[0]:
        given[key] = tf.constant([row[key] for row in rows], tf.as_dtype(definition.inputs[key].dtype))
    outputs = {key: value.numpy().tolist() for key, value in signatures[name](**given).items()}
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    # Of one output the values alone, and strings as UTF-8.
    return [next(iter(row.values())).decode() for row in rows] if len(outputs) == 1 else rows


def test_a_request_to_tfserving(exported, signatures, model, tokenizer):
    texts = [" the words", "of"]
    rows = [{"texts": text, "max_new_tokens": 6} for text in texts]
    body = json.dumps({"signature_name": "generate_text", "instances": rows})
    wanted = model.generate(texts, GenerationOptions(max_new_tokens=6), tokenizer=tokenizer)
    assert predict(exported, signatures, body) == [result.text for result in wanted]
    rows = [
        {"input_ids": [0, 0, 9], "attention_mask": [0, 0, 1]},
        {"input_ids": [5, 6, 7], "attention_mask": [1] * 3},
    ]
    rows = [{**row, "max_new_tokens": 4, "temperature": 1.0, "seed": seed} for seed, row in enumerate(rows)]
    body = json.dumps({"signature_name": "generate", "instances": rows})
    options = GenerationOptions(max_new_tokens=4, temperature=1.0, seed=(0, 1))
    for found, result in zip(
        predict(exported, signatures, body), model.generate([[9], [5, 6, 7]], options), strict=True
    ):
        assert tuple(found["token_ids"][: found["lengths"]]) == result.token_ids


def test_what_is_refused(exported, tmp_path):
    source = exported.parent / "model"
    with pytest.raises(InputError, match="no layout 'tritom'; did you mean 'triton'"):
        export(source, tmp_path / "out", layouts=("tritom",))
    with pytest.raises(InputError, match="layout tfserving without a SavedModel"):
        export(source, tmp_path / "out", layouts=("tfserving",), saved_model=False)
    with pytest.raises(InputError, match="model's name 'my model', expected letters"):
        export(source, tmp_path / "my model", layouts=("triton",))
    assert not list(tmp_path.iterdir())


def test_the_command_takes_layouts_and_a_name(exported, tmp_path, capsys):
    from tfgpt.cli import main

    arguments = ["export", str(exported.parent / "model"), "--output", str(tmp_path / "out"), "--no-verify"]
    arguments += ["--precision", "fp32", "--no-saved-model", "--layout", "triton", "--name", "mine"]
    assert main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "out/triton").iterdir()) == ["mine_fp32"]
    capsys.readouterr()
