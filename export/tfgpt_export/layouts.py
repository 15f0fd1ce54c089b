"""The directories that model servers want, beside the common one; the weights are not stored again.

    EXPORT_DIR/
      triton/                        --model-repository=
        NAME_fp32/config.pbtxt       one model for each ONNX file, with the cache in and out
        NAME_fp32/1/model.onnx
        NAME_generate/config.pbtxt   ids to ids, and
        NAME_text/config.pbtxt       text to text: signatures of the SavedModel
        NAME_text/1/model.savedmodel/
      tfserving/                     mounted as /models
        models.config                --model_config_file=/models/models.config
        NAME/1/saved_model.pb

Large files are hard links to those of the common directory: either tree can be mounted into a container by
itself, where a symbolic link would lead outside, and copying one makes ordinary files. Where the file system
has no hard links they are copies.

Schemas: Triton's model_config.proto (github.com/triton-inference-server/common, folder protobuf) and its
docs/user_guide/model_configuration.md; TF Serving's model_server_config.proto. Neither server was run.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tfgpt.errors import InputError
from tfgpt.files import write_text
from tfgpt.filesystem import link_or_copy
from tfgpt_export.recipe import Artifact

VERSION = "1"
SAVED_MODEL_FILE = "saved_model.pb"
# Requests that wait at the same time go through the model together, as no row depends on another.
MOST_TEXTS_AT_ONCE = 16
_TYPE_OF_ONNX = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.INT64: "TYPE_INT64",
}
_TYPE_OF_TENSORFLOW = {
    types_pb2.DT_FLOAT: "TYPE_FP32",
    types_pb2.DT_INT64: "TYPE_INT64",
    types_pb2.DT_STRING: "TYPE_STRING",
}


@dataclass(frozen=True)
class _Tensor:
    """One input or output as the server names it; -1 where a dimension is open."""

    name: str
    data_type: str
    dims: tuple[int, ...]


def layouts_stage(artifact: Artifact) -> Artifact:
    """Writes the layouts that the recipe asks for."""
    for layout in artifact.recipe.layouts:
        WRITERS[layout](artifact, artifact.output / layout)
    return artifact


def check_name(name: str) -> None:
    """Refuses what is no name of a model in a path and a URL.

    Raises:
        InputError: another character than letters, digits, `_`, `-` and `.`.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise InputError(
            f"found the model's name {name!r}, expected letters, digits, '_', '-' and '.': give another with "
            "--name"
        )


def write_triton(artifact: Artifact, repository: Path) -> None:
    """A model repository: a model for each ONNX file, and for the SavedModel's signatures that generate."""
    name = artifact.recipe.name
    for precision, path in artifact.files.items():
        if precision != "saved_model":
            model = repository / f"{name}_{precision}"
            graph = _link_onnx(path, model / VERSION)
            write_text(model / "config.pbtxt", _onnx_config(model.name, graph))
    if "saved_model" in artifact.files:
        signatures = _signatures(artifact.files["saved_model"])
        for signature, suffix in (("generate", "generate"), ("generate_text", "text")):
            if signature in signatures:
                model = repository / f"{name}_{suffix}"
                _link_tree(artifact.files["saved_model"], model / VERSION / "model.savedmodel")
                config = _saved_model_config(model.name, signature, signatures[signature])
                write_text(model / "config.pbtxt", config)


def write_tfserving(artifact: Artifact, folder: Path) -> None:
    """A model's base path with one version, and the list of models that the server starts with."""
    name = artifact.recipe.name
    _link_tree(artifact.files["saved_model"], folder / name / VERSION)
    lines = [
        "# docker run -v EXPORT_DIR/tfserving:/models IMAGE --model_config_file=/models/models.config",
        "model_config_list {",
        "  config {",
        f"    name: {json.dumps(name)}",
        f"    base_path: {json.dumps('/models/' + name)}",
        '    model_platform: "tensorflow"',
        "  }",
        "}",
    ]
    write_text(folder / "models.config", "\n".join(lines) + "\n")


WRITERS = {"triton": write_triton, "tfserving": write_tfserving}


def _link_onnx(path: Path, version: Path) -> onnx.GraphProto:
    """Puts a model there as model.onnx, its data under the name that the model knows it by."""
    model = onnx.load(str(path), load_external_data=False)
    version.mkdir(parents=True)
    link_or_copy(path, version / "model.onnx")
    places = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    for location in sorted({entry.value for entry in places if entry.key == "location"}):
        link_or_copy(path.with_name(location), version / location)
    return model.graph


def _link_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            linked = target / path.relative_to(source)
            linked.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, linked)


def _onnx_config(name: str, graph: onnx.GraphProto) -> str:
    """Every dimension as the graph has it, the batch included.

    `max_batch_size` is 0: requests carry caches of different lengths, so the server has nothing to put
    together, and several new tokens beside a cache are for a batch of one.
    """
    head = [f"name: {json.dumps(name)}", 'backend: "onnxruntime"', "max_batch_size: 0"]
    fields = [_field("input", map(_of_onnx, graph.input)), _field("output", map(_of_onnx, graph.output))]
    return "\n".join([*head, *fields]) + "\n"


def _saved_model_config(name: str, signature: str, definition) -> str:
    """Texts come and go one by one, `[batch]`, so the server may put requests together; tables may not."""
    inputs, outputs = (_of_signature(each) for each in (definition.inputs, definition.outputs))
    are_rows = all(len(tensor.dims) == 1 for tensor in (*inputs, *outputs))
    head = [f"name: {json.dumps(name)}", 'platform: "tensorflow_savedmodel"']
    if are_rows:
        head += [f"max_batch_size: {MOST_TEXTS_AT_ONCE}", "dynamic_batching { }"]
    else:
        head += ["max_batch_size: 0"]
    parameter = f'parameters {{ key: "TF_SIGNATURE_DEF" value {{ string_value: {json.dumps(signature)} }} }}'
    fields = [_field("input", inputs, are_rows), _field("output", outputs, are_rows)]
    return "\n".join([*head, parameter, *fields]) + "\n"


def _field(kind: str, tensors: Iterable[_Tensor], are_rows: bool = False) -> str:
    """`input [...]` in protobuf's text format; a row's only dimension is the batch, which stays unsaid."""
    lines = []
    for tensor in tensors:
        dims = "dims: [ 1 ] reshape { shape: [ ] }" if are_rows else f"dims: {list(tensor.dims)}"
        lines.append(f"  {{ name: {json.dumps(tensor.name)} data_type: {tensor.data_type} {dims} }}")
    return f"{kind} [\n" + ",\n".join(lines) + "\n]"


def _of_onnx(value: onnx.ValueInfoProto) -> _Tensor:
    tensor = value.type.tensor_type
    dims = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return _Tensor(value.name, _TYPE_OF_ONNX[tensor.elem_type], tuple(dims))


def _of_signature(tensors) -> list[_Tensor]:
    return [
        _Tensor(name, _TYPE_OF_TENSORFLOW[info.dtype], tuple(dim.size for dim in info.tensor_shape.dim))
        for name, info in sorted(tensors.items())
    ]


def _signatures(saved_model: Path):
    """The SignatureDefs that stand in the file, by name."""
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((saved_model / SAVED_MODEL_FILE).read_bytes())
    return content.meta_graphs[0].signature_def
