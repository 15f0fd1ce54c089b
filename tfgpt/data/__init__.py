"""Text to training batches: reading, cleaning, packing, and the dataset as a pure function of the step."""
