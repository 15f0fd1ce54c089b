"""Perplexity, baselines and task metrics."""
