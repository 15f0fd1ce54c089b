"""Tokenizers. No TF."""
