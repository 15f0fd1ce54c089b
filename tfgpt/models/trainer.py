"""Base class of every model head: Keras's `compile` and `fit` with a training step for language models.

What it adds to `keras.Model` (on the TensorFlow backend; see `tensorflow_steps.py`):

- a default loss: cross-entropy from logits in float32, the weighted mean sum(w * l) / sum(w) over the whole
  global batch, whatever number of replicas or micro-batches it was cut into;
- `compile(micro_batches=N)`: gradients of N slices of the batch are added up before one update;
- gradients are made dense and summed over the replicas BEFORE the optimizer clips them, which no Keras
  optimizer does by itself;
- `fit` under MirroredStrategy with steps_per_execution > 1 and XLA, and under MultiWorkerMirroredStrategy;
- `gradient_norm` and `learning_rate` in the logs of every step.

On other backends it is `keras.Model` with the default loss.
"""

import warnings

import keras
from keras import ops

from tfgpt.errors import InputError
from tfgpt.models.weights import element_weights

if keras.config.backend() == "tensorflow":
    from tfgpt.models.tensorflow_steps import TensorFlowSteps as BackendSteps
else:

    class BackendSteps:
        """Nothing to add: the backend's own `fit` is kept."""


class Trainer(BackendSteps, keras.Model):
    """A `keras.Model` that trains language models; subclass it and write `call`.

    `compile` takes what Keras takes, and `micro_batches`. Without `loss`, `element_losses` is minimised.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.micro_batches = 1

    def compile(self, optimizer="adamw", loss=None, *, micro_batches=1, **kwargs):
        """Configures training, as `keras.Model.compile`.

        Args:
            optimizer: name or `keras.optimizers.Optimizer`. Build it freely, also a stock one: its gradients
                arrive dense and already summed over replicas.
            loss: None for the token-weighted mean of `element_losses`, or anything Keras accepts.
            micro_batches: number of equal slices that each (per-replica) batch is cut into. The update is the
                one of the whole batch; memory for activations shrinks by this factor.
            **kwargs: `metrics`, `weighted_metrics`, `steps_per_execution`, `jit_compile`, ... as in Keras.

        Warns of trainable weights in bfloat16 or float16, in which small updates are rounded away.

        Raises:
            InputError: for settings that the backend or the strategy cannot honour.
        """
        if isinstance(micro_batches, bool) or not isinstance(micro_batches, int) or micro_batches < 1:
            raise InputError(f"found micro_batches={micro_batches!r}, expected a whole number of at least 1")
        self._check_backend(micro_batches)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self.micro_batches = micro_batches
        self._prepare_compiled()
        self._warn_of_low_precision()

    def get_compile_config(self):
        config = super().get_compile_config()
        return {**config, "micro_batches": self.micro_batches} if config else config

    def compile_from_config(self, config):
        # Keras skips this for any class with its own `compile`, with a warning.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def element_losses(self, y, y_pred):
        """The loss of every target: cross-entropy in nats, float32, from logits.

        Args:
            y: integer class ids, `[...]`, for example `[batch, length]`.
            y_pred: logits, `[..., classes]`, any float dtype.

        Returns:
            float32 tensor with the shape of `y`. Override it for another head.
        """
        return ops.sparse_categorical_crossentropy(y, ops.cast(y_pred, "float32"), from_logits=True)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self._compile_loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        weights = element_weights(y, sample_weight)
        loss = ops.divide_no_nan(self.weighted_loss_sum(y, y_pred, weights), ops.sum(weights))
        if training:
            for additional in self.losses:
                loss = loss + self._aggregate_additional_loss(additional)
        return loss

    def weighted_loss_sum(self, y, y_pred, weights):
        """Sum of `weights * element_losses`, a float32 scalar; targets of weight 0 may hold any number."""
        # An id outside the vocabulary gives NaN, and NaN * 0 is NaN: replace such targets first.
        ignored = ops.equal(weights, 0)
        losses = self.element_losses(ops.where(ignored, ops.zeros_like(y), y), y_pred)
        return ops.sum(ops.where(ignored, ops.zeros_like(losses), losses * weights))

    def _check_backend(self, micro_batches):
        if keras.config.backend() != "tensorflow":
            if micro_batches > 1:
                raise InputError(
                    f"found micro_batches={micro_batches} on the {keras.config.backend()} backend, "
                    "expected 1; set KERAS_BACKEND=tensorflow, or the optimizer's gradient_accumulation_steps"
                )
        elif keras.distribution.distribution() is not None:
            raise InputError(
                "found an active keras.distribution on the tensorflow backend, where it silently keeps "
                "everything on one device; use a tf.distribute strategy, or set KERAS_BACKEND=jax"
            )

    def _warn_of_low_precision(self):
        # An update below 2**-9 of a weight is lost in bfloat16, and so is Adam's decay of 0.999.
        low = {variable.dtype for variable in self.trainable_variables} & {"bfloat16", "float16"}
        if low:
            dtype = sorted(low)[0]
            warnings.warn(
                f"found trainable weights in {dtype}, expected float32: small updates are rounded away, and "
                f"the model hardly learns; make it with dtype='mixed_{dtype}'",
                stacklevel=3,
            )

    def _prepare_compiled(self):
        prepare = getattr(super(), "_prepare_compiled", None)
        if prepare is not None:
            prepare()
