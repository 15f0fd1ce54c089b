"""How much arithmetic training needs, and how much of a machine's it uses."""

from tfgpt.config import ModelConfig


def flops_per_token(config: ModelConfig, num_parameters: int) -> float:
    """Floating-point operations per token of one training step, forward and backward: 6 N + 12 L H Q T.

    Source: Chowdhery et al. 2022 (PaLM, arXiv:2204.02311), appendix B: L layers, H heads of Q dimensions, T
    tokens of context; recomputation is not counted, nor that causal attention needs half of its products.
    N leaves out tables that are only looked up: positions, and tokens where the head is not tied to them.

    Args:
        config: of the model.
        num_parameters: all trainable parameters.
    """
    looked_up = 0
    if config.positions.value == "learned":
        looked_up += config.context_length * config.hidden_dim
    if not config.tie_embeddings:
        looked_up += config.vocabulary_size * config.hidden_dim
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * config.context_length
    return 6.0 * (num_parameters - looked_up) + attention


def flops_utilisation(tokens_per_second: float, flops_of_token: float, peak_flops: float) -> float:
    """Model FLOPs utilisation (PaLM, appendix B): the share of the peak that the model's own arithmetic uses.

    Args:
        tokens_per_second: over all devices.
        flops_of_token: from `flops_per_token`.
        peak_flops: floating-point operations a second, of all devices together, in the precision used.
    """
    return tokens_per_second * flops_of_token / peak_flops
