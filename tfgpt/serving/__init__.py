"""Serving exported models with numpy and onnxruntime only; imports neither TensorFlow nor Keras."""
