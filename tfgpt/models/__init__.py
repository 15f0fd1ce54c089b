"""Models: the one decoder and its task heads."""
