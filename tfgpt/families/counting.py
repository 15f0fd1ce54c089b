"""How many parameters and norms a model has, from its config alone. Loads no TensorFlow."""

from tfgpt.config import Activation, ModelConfig, Norm, Positions, Residual


def count_parameters(config: ModelConfig) -> int:
    """Numbers in all weights of a model; a tied head counts once, as part of the token table."""
    width = config.hidden_dim
    norm = width * (2 if config.norm is Norm.LAYER else 1)
    tables = config.vocabulary_size * width
    if config.positions is Positions.LEARNED:
        tables += config.context_length * width
    blocks = config.num_layers * (_attention(config) + _mlp(config))
    head = 0 if config.tie_embeddings else _linear(width, config.vocabulary_size, config.head_bias)
    return tables + blocks + count_norms(config) * norm + head


def count_norms(config: ModelConfig) -> int:
    """Norms of all blocks, and the final one, which post-norm blocks do without."""
    per_block = 1 if config.residual is Residual.PARALLEL_ONE_NORM else 2
    return per_block * config.num_layers + (config.residual is not Residual.POST_NORM)


def _linear(inputs: int, outputs: int, has_bias: bool) -> int:
    return inputs * outputs + outputs * has_bias


def _attention(config: ModelConfig) -> int:
    heads = config.num_heads + 2 * config.num_key_value_heads
    inputs = _linear(config.hidden_dim, heads * config.head_dim, config.attention_bias)
    output = _linear(config.num_heads * config.head_dim, config.hidden_dim, config.attention_output_bias)
    return inputs + output + config.num_heads * config.attention_sinks


def _mlp(config: ModelConfig) -> int:
    gates = 2 if config.activation is Activation.CLAMPED_SWIGLU else 1
    up = _linear(config.hidden_dim, gates * config.intermediate_dim, config.mlp_bias)
    one = up + _linear(config.intermediate_dim, config.hidden_dim, config.mlp_bias)
    if config.num_experts is None:
        return one
    return config.num_experts * one + _linear(config.hidden_dim, config.num_experts, True)
