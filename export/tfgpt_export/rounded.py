"""Is a quantized file what it says it is? Keras with the file's own weights must give the file's numbers.

What rounding costs depends on the model: a random one may change its mind at every token, and be exported
rightly. So the arithmetic is judged apart from the rounding: the weights that the file stands for go into the
Keras model, the products of the graph run in float32 (accuracy level 1), and then every tensor is equal
within the tolerance of lossless artifacts. Swapped blocks or a wrong bias show at once, in any model.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import onnx
from onnx import numpy_helper

from tfgpt.checkpoints.readers import TensorReader
from tfgpt.checkpoints.translate import read_weights
from tfgpt.models.causal_lm import CausalLM
from tfgpt_export.plan import QuantizationPlan, quantized_name, scales_name
from tfgpt_export.recipe import Artifact

FLOAT_PRODUCTS = 1


def float_products_session(path: Path):
    """A session over a quantized file, whose products take float32 activations as they are."""
    import onnxruntime

    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = FLOAT_PRODUCTS
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@contextlib.contextmanager
def weights_of_file(model: CausalLM, artifact: Artifact, precision: str) -> Iterator[dict[str, float]]:
    """Within the context the Keras model computes with the rounded weights of a file.

    One tensor at a time is in memory beside the model; afterwards its own are read from the checkpoint again.

    Yields:
        by how much rounding changed each weight: the norm of the change relative to that of the weight.
    """
    plan, variables, changes = artifact.plans[precision], model.named_weights(), {}
    try:
        for name, rounded in _rounded(artifact.files[precision], plan, artifact.traced.weight_shapes):
            own = keras.ops.convert_to_numpy(variables[name])
            changes[name] = float(np.linalg.norm(rounded - own) / max(np.linalg.norm(own), 1e-30))
            variables[name].assign(rounded)
        yield changes
    finally:
        reader = TensorReader(artifact.model_dir)
        shapes = artifact.traced.weight_shapes
        for name, read in read_weights(reader, artifact.family, artifact.config, shapes):
            if name in plan.forms:
                variables[name].assign(read().astype(np.float32))


def _rounded(path: Path, plan: QuantizationPlan, shapes) -> Iterator[tuple[str, np.ndarray]]:
    model = onnx.load(path, load_external_data=False)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    folder = str(path.parent)
    for name, form in plan.forms.items():
        packed = numpy_helper.to_array(stored[quantized_name(name, form)], folder)
        scales = numpy_helper.to_array(stored[scales_name(name)], folder)
        yield name, plan.rounded(name, shapes[name], packed, scales)
