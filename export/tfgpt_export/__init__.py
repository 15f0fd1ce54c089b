"""The export stage: a model directory becomes SavedModel and ONNX, verified against Keras."""

from importlib import import_module

_PUBLIC = {
    "export": "tfgpt_export.pipeline",
    "Artifact": "tfgpt_export.recipe",
    "ExportRecipe": "tfgpt_export.recipe",
    "verify_export": "tfgpt_export.recheck",
    "VerificationError": "tfgpt_export.gates",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tfgpt_export' has no attribute {name!r}")
