"""How large the files of GPT-2 124m are, from the shapes of its graph; and files past 2 GB."""

import os

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

# Megabytes, all files of a precision together: the project's goals.
LARGEST = {"fp32": 500, "fp16": 252, "int8": 137, "int4": 85}


@pytest.fixture(scope="module")
def gpt2():
    """(config, graph without weights, shapes of the weights) of GPT-2 124m."""
    from tfgpt_export.convert import convert
    from tfgpt_export.trace import trace

    from tfgpt.families.registry import family

    config = family("gpt2").config_of("124m")
    traced = trace(config)
    return config, convert(traced, config), traced.weight_shapes


def test_nodes_of_gpt2_124m(gpt2):
    _, graph, _ = gpt2
    assert len(graph.graph.node) <= 16 * 12 + 40


@pytest.mark.parametrize("precision", list(LARGEST))
def test_the_token_table_is_stored_once(gpt2, precision):
    from tfgpt_export.plan import form_chooser
    from tfgpt_export.quantize import quantize_graph

    config, graph, shapes = gpt2
    if precision in ("fp32", "fp16"):
        width = 4 if precision == "fp32" else 2
        weights = width * sum(int(np.prod(shape)) for shape in shapes.values())
    else:
        graph, plan = quantize_graph(graph, shapes, form_chooser(precision, config))
        weights = plan.num_bytes(shapes)
    # Data is laid out by pages: at most one is lost at each tensor.
    whole = weights + len(graph.SerializeToString()) + 4096 * 3 * len(shapes)
    assert whole <= LARGEST[precision] * 1e6
    assert whole >= 0.8 * LARGEST[precision] * 1e6  # so small a file would lack something


@pytest.mark.slow
@pytest.mark.parametrize("precision", list(LARGEST))
def test_the_files_of_gpt2_124m(tmp_path, precision):
    from tfgpt_export import export

    import tfgpt

    tfgpt.CausalLM.from_family("gpt2", "124m").save_pretrained(tmp_path / "model")
    artifact = export(tmp_path / "model", tmp_path / "out", (precision,), saved_model=False, verify=False)
    written = [path.stat().st_size for path in artifact.files[precision].parent.iterdir()]
    assert sum(written) <= LARGEST[precision] * 1e6


def test_tensors_beyond_two_gigabytes_of_a_data_file(tmp_path, monkeypatch):
    """The first tensor's place is a hole of 5 GB that takes no disk; the next are found behind it."""
    import onnxruntime
    from tfgpt_export import weights

    class Hole:
        """Stands for an array whose bytes are never written."""

        shape, dtype, nbytes = (5, 2**28), np.dtype(np.float32), 5 * 2**30

    write_external = weights._write_external

    def with_hole(name, tensor, data, location):
        if not isinstance(tensor, Hole):
            return write_external(name, tensor, data, location)
        proto = write_external(name, np.zeros(tensor.shape[:1], np.float32), data, location)
        os.ftruncate(data.fileno(), tensor.nbytes)
        data.seek(tensor.nbytes)
        del proto.dims[:], proto.external_data[2:]
        proto.dims.extend(tensor.shape)
        proto.external_data.add(key="length", value=str(tensor.nbytes))
        return proto

    monkeypatch.setattr(weights, "_write_external", with_hole)
    last = np.arange(2000, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["last", "last"], ["sum"])],
        "far",
        [],
        [helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, [2000])],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])
    path = tmp_path / "far.onnx"
    weights.write_model(model, [("hole", Hole()), ("last", last)], path, Hole.nbytes)
    assert os.stat(tmp_path / "far.onnx_data").st_blocks * 512 < 2**24
    [_, stored] = onnx.load(path, load_external_data=False).graph.initializer
    place = {each.key: each.value for each in stored.external_data}
    assert int(place["offset"]) == 5 * 2**30 and int(place["offset"]) % weights.PAGE == 0
    np.testing.assert_array_equal(numpy_helper.to_array(stored, str(tmp_path)), last)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], 2 * last)
