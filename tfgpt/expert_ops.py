"""The named operation of a mixture of experts, beside those of `tfgpt.ops`.

Exact: every token gets all of its experts, whatever the others chose. Work and memory are bounded by static
shapes, so one definition trains, compiles (tf.function, XLA, jax.jit) and generates:

    tokens          0    1    2    3           two experts each, X = 3 experts: P = 8 pairs
    experts        0 2  0 1  0 2  2 0
    pairs by       0: t0 t1 t2 t3   1: t1   2: t0 t2 t3
    expert
    blocks of 3    [t0 t1 t2] [t3 . .] [t1 . .] [t0 t2 t3]
    experts            0         0        1         2

One batched product makes all blocks, `[blocks, 3, E]` by `[blocks, 2 I, E]`, each with its expert's kernel.

A block holds pairs of one expert; what is empty in it is computed and never read. With one pair to a block
there is no padding: a single token reads its own experts' weights and no other.

Letters: B, S, E as in `tfgpt.ops`; N = B S tokens, k experts for each, P = N k pairs, X experts that are I
wide.
"""

from typing import Any, NamedTuple

from keras import ops

from tfgpt.ops import at_least_float32, clamped_swiglu, named_operation

# See docs/experiments.md for other sizes of a block.
BLOCKS_PER_EXPERT = 1


class MixtureSpec(NamedTuple):
    """What is fixed about one mixture of experts."""

    num_experts: int
    num_experts_per_token: int
    swiglu_alpha: float
    swiglu_limit: float


class ExpertWeights(NamedTuple):
    """All experts' weights. A row of a kernel makes one number of the output.

    `up_kernel` `[X, 2 I, E]` and `up_bias` `[X, 2 I]` alternate gates and values; `down_kernel` `[X, E, I]`,
    `down_bias` `[X, E]`. This is how the published 4-bit blocks lie and what onnxruntime's operator reads, so
    neither has to turn tensors that are most of the model.
    """

    up_kernel: Any
    up_bias: Any
    down_kernel: Any
    down_bias: Any


@named_operation
def route(x, kernel, bias):
    """The router's logits: x `[B, S, E]`, kernel `[E, X]`, bias `[X]` -> `[N, X]`.

    An operation of its own, since quantization leaves it alone: a rounded logit can choose another expert.
    """
    return ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel) + bias


@named_operation
def mixture_of_experts(x, router_logits, weights: ExpertWeights, spec: MixtureSpec):
    """The weighted sum of each token's best experts (Shazeer et al. 2017, equation 1; arXiv 2508.10925).

    Args:
        x: `[B, S, E]`.
        router_logits: `[N, X]`, from `route`; the softmax is over the k largest alone.
        weights: any float dtype; the chosen ones are cast to that of `x`.
        spec: the layer's `MixtureSpec`.

    Returns:
        `[B, S, E]`.
    """
    tokens = ops.reshape(x, (-1, x.shape[-1]))  # [N, E]
    scores, chosen = ops.top_k(router_logits, spec.num_experts_per_token)
    shares = ops.softmax(scores, axis=-1) if spec.num_experts_per_token > 1 else ops.ones_like(scores)
    blocks = _arrange(ops.reshape(chosen, (-1,)), _num_pairs(x, spec), spec)
    picked = ops.take(tokens, blocks.pairs // spec.num_experts_per_token, axis=0)  # [blocks, size, E]
    hidden = _linear_by_block(picked, weights.up_kernel, weights.up_bias, blocks.experts)
    hidden = clamped_swiglu(hidden, spec.swiglu_alpha, spec.swiglu_limit)  # [blocks, size, I]
    answers = _linear_by_block(hidden, weights.down_kernel, weights.down_bias, blocks.experts)
    answers = ops.take(ops.reshape(answers, (-1, x.shape[-1])), blocks.places, axis=0)  # [P, E]
    answers = ops.reshape(answers, (-1, spec.num_experts_per_token, x.shape[-1]))  # [N, k, E]
    total = ops.sum(at_least_float32(answers) * at_least_float32(shares)[:, :, None], axis=1)  # [N, E]
    return ops.cast(ops.reshape(total, ops.shape(x)), x.dtype)


class _Blocks(NamedTuple):
    """`experts` `[blocks]`, `pairs` `[blocks, size]`: which pair stands where; `places` `[P]` inverts it."""

    experts: Any
    pairs: Any
    places: Any


def _num_pairs(x, spec: MixtureSpec):
    """N k; a number where the shape is known."""
    return ops.shape(x)[0] * ops.shape(x)[1] * spec.num_experts_per_token


def _arrange(chosen, num_pairs, spec: MixtureSpec) -> _Blocks:
    """Sorts the pairs `chosen` `[P]` by expert and cuts each expert's into blocks of one size."""
    size = num_pairs // (BLOCKS_PER_EXPERT * spec.num_experts) + 1
    # Enough whatever the experts' numbers are: only each one's last block may be part empty.
    num_blocks = (num_pairs + spec.num_experts * (size - 1)) // size
    order = ops.argsort(chosen)  # [P]
    ordered = ops.take(chosen, order, axis=0)
    experts = ops.arange(spec.num_experts, dtype=ordered.dtype)
    start = ops.cast(ops.searchsorted(ordered, experts, side="left"), "int32")  # [X]: first of each expert
    count = ops.cast(ops.searchsorted(ordered, experts, side="right"), "int32") - start
    last_block = ops.cumsum((count + size - 1) // size)  # [X]: the first block behind each expert's
    first_block = last_block - (count + size - 1) // size
    block = ops.arange(num_blocks, dtype="int32")
    owner = ops.cast(ops.searchsorted(last_block, block, side="right"), "int32")
    owner = ops.minimum(owner, spec.num_experts - 1)  # blocks that nobody needs
    within = (block - ops.take(first_block, owner, axis=0))[:, None] * size + ops.arange(size, dtype="int32")
    rank = ops.minimum(ops.take(start, owner, axis=0)[:, None] + within, num_pairs - 1)  # [blocks, size]
    own_start, own_block = ops.take(start, chosen, axis=0), ops.take(first_block, chosen, axis=0)
    places = own_block * size + ops.cast(ops.argsort(order), "int32") - own_start
    return _Blocks(owner, ops.take(order, rank, axis=0), places)


def _linear_by_block(x, kernel, bias, experts):
    """Each block by its expert: x `[blocks, size, in]`, kernel `[X, out, in]` -> `[blocks, size, out]`."""
    # Cast after the choice: the weights that nobody asked for are not touched.
    kernel = ops.cast(ops.take(kernel, experts, axis=0), x.dtype)
    bias = ops.cast(ops.take(bias, experts, axis=0), x.dtype)
    return ops.einsum("bsi,boi->bso", x, kernel) + bias[:, None, :]
