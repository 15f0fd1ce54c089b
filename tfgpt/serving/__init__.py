"""Serving exported models with numpy and onnxruntime only; imports neither TensorFlow nor Keras."""

__all__ = ["Session"]


def __getattr__(name: str):
    # onnxruntime takes a tenth of a second to load: only when a session is wanted.
    if name == "Session":
        from tfgpt.serving.session import Session

        return Session
    raise AttributeError(f"module 'tfgpt.serving' has no attribute {name!r}")
