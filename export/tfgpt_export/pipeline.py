"""The export as a list of stages, each `Artifact -> Artifact`, each followed by its check.

trace       Keras -> a TensorFlow function, markers for the weights   check: it is traced whole
convert     -> ONNX graph, weights as inputs                          check: contract, operator counts
attach      -> onnx/model.onnx (+ _data)                              check: equal to Keras
halve       -> onnx/model_fp16.onnx                                   check: equal within float16's rounding
quantize    -> onnx/model_quantized.onnx, onnx/model_q4.onnx          check: equal to Keras of these weights,
                                                                             and predicts what Keras does
portable    -> onnx/model_portable.onnx                               check: equal to Keras
engine      -> onnx/engine*.onnx, over the same weights               check: says the same as Keras
saved_model -> saved_model/1                                          check: equal to Keras
package     -> config, tokenizer, genai_config, checksums, report     check: a session opens it
layouts     -> triton/, tfserving/ where asked for
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from tfgpt.checkpoints.directory import read_model_config
from tfgpt.paths import user_path
from tfgpt.replacing import replacing_directory
from tfgpt_export import layouts, stages
from tfgpt_export import package as packaging
from tfgpt_export.engine_check import check_engine
from tfgpt_export.keras_model import KerasModel
from tfgpt_export.lower import check_config
from tfgpt_export.recipe import Artifact, ExportRecipe
from tfgpt_export.verify import Verifier

STAGES = (
    ("trace", stages.trace_stage, None),
    ("convert", stages.convert_stage, None),
    ("attach", stages.attach_stage, Verifier.check_lossless_onnx),
    ("halve", stages.halve_stage, Verifier.check_half_onnx),
    ("quantize", stages.quantize_stage, Verifier.check_quantized_onnx),
    ("portable", stages.portable_stage, Verifier.check_portable_onnx),
    ("engine", stages.engine_stage, check_engine),
    ("saved_model", stages.saved_model_stage, Verifier.check_saved_model),
    ("package", packaging.package_stage, Verifier.check_generation),
    ("layouts", layouts.layouts_stage, None),
)


def export(
    model_dir: str | os.PathLike,
    export_dir: str | os.PathLike,
    precisions: tuple[str, ...] = ("fp32", "int8"),
    progress: Callable[[str, str], None] | None = None,
    **options,
) -> Artifact:
    """Exports a model directory; `export_dir` appears, or is replaced, only when all is done and right.

    Args:
        model_dir: config.json, safetensors and a tokenizer, as `save_pretrained` writes them.
        export_dir: where to; see the README of the export stage for what is in it.
        precisions: of "fp32", "fp16", "int8" and "int4".
        progress: called with (stage, "run" or "verify") when each begins.
        **options: the other fields of `ExportRecipe`.

    Returns:
        the last `Artifact`: its files, its operator counts and its verification.

    Raises:
        InputError: the model directory is incomplete, an option is wrong, or somebody's files are in
            `export_dir`, before or after.
        VerificationError: an artifact differs from Keras; the message names the first tensor that does.
    """
    recipe = ExportRecipe(precisions=tuple(precisions), **options)
    model_dir, export_dir = user_path(model_dir), user_path(export_dir).resolve()
    if recipe.layouts:
        recipe = dataclasses.replace(recipe, name=recipe.name or export_dir.name)
        layouts.check_name(recipe.name)
    family, config = read_model_config(model_dir)
    check_config(config)
    packaging.check_directories(model_dir, export_dir)
    packaging.check_tokenizer(model_dir, config)
    with replacing_directory(export_dir) as output, contextlib.ExitStack() as stack:
        artifact = Artifact(model_dir, output, recipe, family, config, KerasModel(model_dir))
        verifier = stack.enter_context(Verifier(artifact)) if recipe.verify else None
        for name, run, check in STAGES:
            _report(progress, name, "run")
            artifact = run(artifact)
            if verifier is not None and check is not None:
                _report(progress, name, "verify")
                found = tuple(check(verifier, artifact))
                artifact = dataclasses.replace(artifact, verification=artifact.verification + found)
        if verifier is not None:
            verifier.write_reference(artifact)
        packaging.write_reports(artifact)
        packaging.check_directories(model_dir, export_dir)  # what was laid there meanwhile is somebody's
    return dataclasses.replace(artifact, output=export_dir, files=_moved(artifact, export_dir))


def _moved(artifact: Artifact, export_dir: Path) -> dict[str, Path]:
    return {name: export_dir / path.relative_to(artifact.output) for name, path in artifact.files.items()}


def _report(progress, stage: str, step: str) -> None:
    if progress is not None:
        progress(stage, step)
