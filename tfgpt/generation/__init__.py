"""The one generate: options, samplers, stopping, the loop. NumPy only, apart from the Keras decoder."""
