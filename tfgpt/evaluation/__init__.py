"""Perplexity, and baselines on the same bytes."""
