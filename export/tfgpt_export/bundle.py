"""Where each artifact stands in an export directory, and how large it is. Loads no TensorFlow."""

from pathlib import Path

from tfgpt.serving.export_directory import ENGINE_OF_PRECISION, FILE_OF_PRECISION, PROMPTS_OF_PRECISION
from tfgpt_export.checksums import files_in

# The precisions that are written, and where.
MODEL_FILES = {name: f"onnx/{file}" for name, file in FILE_OF_PRECISION.items()}
SAVED_MODEL = "saved_model/1"
# Beside the precisions: float32 in standard operators alone.
PORTABLE_FILE = "onnx/model_portable.onnx"
GRAPHS = MODEL_FILES | {"portable": PORTABLE_FILE}


def data_of(path: Path) -> Path:
    """The file with a graph's large weights, where it has one."""
    return path.with_name(path.name + "_data")


def graphs_in(export_dir: Path) -> dict[str, Path]:
    """Artifact -> its .onnx file, for those that are there."""
    paths = {name: export_dir / file for name, file in GRAPHS.items()}
    return {name: path for name, path in paths.items() if path.is_file()}


def prompts_name(precision: str) -> str:
    """What comparisons call the engine's graph for long prompts."""
    return f"{precision}_prompts"


def artifact_sizes(export_dir: Path) -> dict[str, int]:
    """Bytes of each artifact, all of its files together."""
    parts = {name: [path, data_of(path)] for name, path in graphs_in(export_dir).items()}
    for others in (ENGINE_OF_PRECISION, PROMPTS_OF_PRECISION):
        for name in parts.keys() & others.keys():
            parts[name].append(export_dir / "onnx" / others[name])
    parts["saved_model"] = files_in(export_dir / SAVED_MODEL)
    sizes = {
        name: sum(path.stat().st_size for path in paths if path.is_file()) for name, paths in parts.items()
    }
    return {name: size for name, size in sizes.items() if size}
