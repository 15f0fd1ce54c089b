"""Keras layers of the causal Transformer, written in keras.ops."""
