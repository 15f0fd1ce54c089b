"""How far an artifact may be from Keras, with reasons."""

# Relative to the largest number of a tensor, or to 1: float32 rounds at 6e-8, sums over some thousand
# products and some dozen layers in another order than Keras lose two to three digits of that. A wrong mask,
# position, scale or layer shows at 1e-2 and above.
LOSSLESS = 1e-4
# float16 rounds every number at 5e-4 of itself: weights, each of some seven sums and products of a layer, and
# the cache. The errors are independent and add up as their squares do, sqrt(7 * 50) * 5e-4 is 1e-2 for 50
# layers, of a typical number; this is relative to the largest.
HALF = 1e-2

TOLERANCES = {"fp32": LOSSLESS, "portable": LOSSLESS, "saved_model": LOSSLESS, "fp16": HALF}

# On text that was given, what rounding may cost. Perplexity is what the change is felt by: 0.3 % is less than
# what one more pass over the data would gain, 3 % about what a model half a size smaller would lose. The
# divergence catches what perplexity averages away: errors that help on one token and harm on another.
QUANTIZED = {
    "fp16": {"perplexity_change": 0.001, "kl_divergence": 0.001},
    "int8": {"perplexity_change": 0.003, "kl_divergence": 0.005},
    "int4": {"perplexity_change": 0.03, "kl_divergence": 0.05},
}

# The engine's graph for long prompts, and for every token where many rows are served, has the same weights
# and rounds activations once a row.
QUANTIZED["int8_prompts"] = QUANTIZED["int8"]
# Without text of its own to be judged on it may diverge so many times as far as the common file, and so much
# more: activations that 8 bits a row cannot hold make it three times and above.
PROMPTS_FACTOR, PROMPTS_MORE = 1.5, 1e-3

# The change of a weight relative to its size. A number in a block of Gaussian ones is rounded by some 0.6 %
# of their size with 8 bits (0.9 % where a whole column has one scale) and 8 % with 4; calibration trades that
# for smaller errors of the products, and up to doubles it. Another weight's numbers would be 140 %, its
# neighbour's scales some 20 %.
WEIGHT_CHANGE = {"int8": 0.05, "int4": 0.35}

# Nats by which Keras must prefer its first token to its second for the choice to count as decided, and the
# share of its decided greedy tokens that an artifact may choose otherwise, on prompts out of text that was
# given: rounding moves logits by some hundredths (fp16, int8) or tenths (int4).
DECIDED_MARGIN = 0.1
GREEDY = {"fp16": 0.005, "int8": 0.02, "int8_prompts": 0.02, "int4": 0.15}

# A file that was verified must be as far from Keras on another machine as it was on the first: its kernels
# may add in another order or round activations elsewhere, which changes these averages by some percent.
AGAIN_FACTOR, AGAIN_MORE = 1.25, 1e-3
