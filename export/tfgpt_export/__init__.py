"""The export stage: a model directory becomes SavedModel and ONNX, verified against Keras."""
