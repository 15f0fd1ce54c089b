"""AdamW for language models: Keras's, two of its faults on TensorFlow mended, and decay where it belongs."""

import contextlib
import re

import keras

from tfgpt.errors import InputError

_ON_TENSORFLOW = keras.config.backend() == "tensorflow"
if _ON_TENSORFLOW:
    from tfgpt.models.gradients import all_reduce_sum, densify


class GlobalGradients:
    """Mixin for any Keras optimizer: it sees the dense gradient of the global batch, as on other backends.

    On TensorFlow, stock Keras optimizers (1) hand embedding gradients with repeated rows to Adam's second
    moment, which then sums squares instead of squaring the sum, and (2) clip on each replica before summing.
    Put it before the optimizer: `class Mended(GlobalGradients, keras.optimizers.Lion)`. Models of this
    project do both themselves, for every optimizer; the mixin brings it to other Keras models.
    """

    # Set by `Trainer.compile`, which sums before it measures the gradient's norm.
    gradients_are_reduced = False

    def apply(self, grads, trainable_variables=None):
        if _ON_TENSORFLOW:
            grads = [densify(gradient) for gradient in grads]
            if not self.gradients_are_reduced:
                grads = all_reduce_sum(grads)
        return super().apply(grads, trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return list(grads_and_vars)


@keras.saving.register_keras_serializable("tfgpt")
class AdamW(GlobalGradients, keras.optimizers.AdamW):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with the settings of GPT-3 (Brown et al. 2020, B).

    Weight decay acts on matrices: vectors (biases, norms) are left out, as are variables named in
    `no_decay`. Clipping by `global_clipnorm` acts on the gradient of the global batch.

    Args:
        learning_rate: a number or a schedule of `tfgpt.training.schedules`.
        weight_decay: fraction of the learning rate by which decayed weights shrink each step.
        beta_2: 0.95 as published for GPT-3; smaller batches want more, such as 0.99.
        decay_embeddings: False leaves out the tables of tokens and positions too.
        no_decay: regular expressions; a variable whose path matches one is not decayed.
        **kwargs: `beta_1`, `epsilon`, `global_clipnorm`, `use_ema`, `ema_momentum`, ... as in Keras.

    Raises:
        InputError: a `no_decay` expression that is none, or that matches no variable.
    """

    def __init__(
        self,
        learning_rate=6e-4,
        weight_decay=0.1,
        beta_2=0.95,
        *,
        decay_embeddings=True,
        no_decay=(),
        epsilon=1e-8,
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_2=beta_2,
            epsilon=epsilon,
            **{"name": "adamw", **kwargs},
        )
        self.decay_embeddings = decay_embeddings
        self.no_decay = tuple(no_decay)
        self._decayed = {}

    def build(self, var_list):
        if self.built:
            return
        super().build(var_list)
        self._decayed = {self._var_key(variable): decays(variable, self) for variable in var_list}
        for pattern in self.no_decay:
            if not any(_search(pattern, variable.path) for variable in var_list):
                raise InputError(
                    f"found no variable that matches no_decay {pattern!r}, expected one such as "
                    f"{var_list[0].path!r}; correct or remove it"
                )

    def _use_weight_decay(self, variable):
        return self._decayed[self._var_key(variable)] and super()._use_weight_decay(variable)

    def get_config(self):
        own = {"decay_embeddings": self.decay_embeddings, "no_decay": list(self.no_decay)}
        return {**super().get_config(), **own}


def decays(variable, optimizer: AdamW) -> bool:
    """Whether `optimizer` decays this Keras variable: decided by its rank and its path, nothing else."""
    path = variable.path
    if len(variable.shape) < 2 or path.rsplit("/", 1)[-1] in ("bias", "scale", "offset", "gamma", "beta"):
        return False
    if not optimizer.decay_embeddings and "embedding" in path:
        return False
    return not any(_search(pattern, path) for pattern in optimizer.no_decay)


def innermost(optimizer):
    """The optimizer inside a `LossScaleOptimizer`, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


@contextlib.contextmanager
def averaged_weights(model):
    """Within it, the model holds the moving average of its weights (`use_ema`), afterwards its weights again.

    Without a moving average, or before the first step, it does nothing.
    """
    optimizer = innermost(getattr(model, "optimizer", None))
    if (
        optimizer is None
        or not optimizer.use_ema
        or not optimizer.built
        or int(keras.ops.convert_to_numpy(optimizer.iterations)) == 0
    ):
        yield
        return
    pairs = list(zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True))
    own = [keras.ops.convert_to_numpy(variable) for variable, _ in pairs]
    for variable, average in pairs:
        variable.assign(average)
    try:
        yield
    finally:
        for (variable, _), value in zip(pairs, own, strict=True):
            variable.assign(value)


def _search(pattern, path):
    try:
        return re.search(pattern, path)
    except re.error as error:
        raise InputError(f"found no_decay {pattern!r}, expected a regular expression: {error}") from None
