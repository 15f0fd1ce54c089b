"""Facts of each GPT family: sizes, how config.json maps to ModelConfig, and the table of weights. No TF."""
