"""How well a language model predicts text: nats per token, perplexity, bits per byte."""

from dataclasses import asdict, dataclass

import keras

from tfgpt.evaluation.measures import bits_per_byte, perplexity


@dataclass(frozen=True)
class Score:
    """A model's score on a text.

    Attributes:
        loss: mean of -ln p(token), in nats per token.
        num_tokens: tokens that were predicted; the sum of the weights.
        num_bytes: UTF-8 bytes of that text; None where unknown.
    """

    loss: float
    num_tokens: float
    num_bytes: int | None = None

    @property
    def perplexity(self) -> float:
        """exp(loss): infinite where that overflows. Comparable only between equal tokenizers."""
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float | None:
        """Bits needed per byte of text: comparable between tokenizers and with compressors."""
        return bits_per_byte(self.loss, self.num_tokens, self.num_bytes) if self.num_bytes else None

    def as_dict(self) -> dict:
        """All numbers, as JSON."""
        return {**asdict(self), "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


def evaluate(model, dataset, num_bytes: int | None = None, jit: bool = False) -> Score:
    """Scores a model on a dataset, with the exact mean over tokens, whatever the batches.

    Args:
        model: a causal language model; its weights and how it was compiled are left alone.
        dataset: finite, of (token_ids, labels) or (token_ids, labels, sample_weight), `[batch, length]`;
            a `tfgpt.data.dataset.evaluation_dataset` predicts every token once.
        num_bytes: UTF-8 bytes of the text that the counted labels stand for, for bits per byte.
        jit: compile with XLA: worth its seconds for many batches of one shape.

    Raises:
        ValueError: no token with a weight.
    """
    add = _batch_sums(model, jit)
    total, count = 0.0, 0.0
    for batch in dataset:
        token_ids, labels, *rest = batch
        loss_sum, weight_sum = add(token_ids, labels, rest[0] if rest else None)
        # Python's floats are doubles: sums over billions of tokens stay exact enough.
        total += float(loss_sum)
        count += float(weight_sum)
    if not count:
        raise ValueError("found no token to predict, expected a dataset with at least one of weight above 0")
    return Score(total / count, count, num_bytes)


def _batch_sums(model, jit):
    """(token_ids, labels, weights) -> (sum of weighted losses, sum of weights), float32 scalars."""
    from tfgpt.models.weights import element_weights

    def sums(token_ids, labels, sample_weight):
        weights = element_weights(labels, sample_weight)
        logits = model(token_ids, training=False)
        return model.weighted_loss_sum(labels, logits, weights), keras.ops.sum(weights)

    if keras.config.backend() != "tensorflow":
        return lambda *batch: sums(*[None if value is None else keras.ops.array(value) for value in batch])
    import tensorflow as tf

    return tf.function(sums, jit_compile=jit, reduce_retracing=True, autograph=False)
