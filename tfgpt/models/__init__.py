"""Models: the one decoder, the language model over it, and how it trains."""
