"""The training and test step of `Trainer` on TensorFlow, for one device and for `tf.distribute` strategies.

One optimizer step of a global batch, R replicas and N micro-batches:

    replica r:  W   = all_reduce(sum of weights)                  one scalar, before the model runs
                g_r = sum over n of grad( sum(w * l)_rn / W )     N forward and backward passes
                g   = all_reduce(g_r)                             dense
                norm(g) -> logs;   optimizer.apply(g)             clipping sees the global gradient

so the update does not depend on R or N beyond rounding.
"""

import keras
import tensorflow as tf
from keras import ops

from tfgpt.errors import InputError
from tfgpt.models.gradients import all_reduce_sum, densify, global_norm, take_reduced_gradients
from tfgpt.models.weights import element_weights


class TensorFlowSteps:
    """Mixin over `keras.Model`; uses `weighted_loss_sum`, `micro_batches` and `compute_loss` of `Trainer`."""

    # ---------------------------------------------------------------- one step

    def train_step(self, data):
        """One update on one device; the logs are running means over the epoch and the step's extras."""
        extras = _after(data, self._replica_train_step)
        return {**self.get_metrics_result(), **extras}

    def test_step(self, data):
        """The loss and metrics of one batch on one device, as running means."""
        _after(data, self._replica_test_step)
        return self.get_metrics_result()

    def _replica_train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = element_weights(y, sample_weight)
        weight_sum = tf.reduce_sum(weights)
        total_weight = all_reduce_sum([weight_sum])[0]
        compute = self._compiled_for_replica(self._loss_and_gradients)
        loss, gradients = compute(x, y, sample_weight, weights, total_weight)
        self._track_loss(loss, weight_sum)

        gradients = all_reduce_sum(gradients)
        # The norm of the true gradient: a loss scale (mixed_float16) is divided out again.
        norm = global_norm(gradients) / tf.cast(self.optimizer.scale_loss(1.0), tf.float32)
        learning_rate = tf.cast(ops.convert_to_tensor(self.optimizer.learning_rate), tf.float32)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"gradient_norm": norm, "learning_rate": learning_rate}

    def _replica_test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = element_weights(y, sample_weight)
        compute = self._compiled_for_replica(self._test_loss)
        self._track_loss(compute(x, y, sample_weight, weights), tf.reduce_sum(weights))
        return {}

    def _compiled_for_replica(self, function):
        # Across replicas the all-reduce cannot be part of an XLA program, so XLA gets the part that computes.
        # A new tf.function per replica: each captures its own replica's variables.
        if self._distribute_strategy is not None and self.jit_compile and not self.run_eagerly:
            return tf.function(function, jit_compile=True, autograph=False)
        return function

    def _track_loss(self, loss, weight_sum):
        """Adds a mean loss over `weight_sum` targets to the running mean of the epoch."""
        total, count = self._loss_tracker.total, self._loss_tracker.count
        total.assign_add(tf.cast(loss, total.dtype) * tf.cast(weight_sum, total.dtype))
        count.assign_add(tf.cast(weight_sum, count.dtype))

    # ---------------------------------------------------------------- loss and gradients

    def _loss_and_gradients(self, x, y, sample_weight, weights, total_weight):
        """This replica's own mean loss, and its share of the gradient of the global mean loss."""
        variables = [variable.value for variable in self.trainable_variables]
        inputs = (x, y, sample_weight, weights)
        if self.micro_batches == 1:
            loss, gradients = self._slice_gradients(inputs, total_weight, variables)
        else:
            loss, gradients = self._accumulated_gradients(inputs, total_weight, variables)
        if self._compile_loss is None:
            loss = tf.math.divide_no_nan(loss, tf.reduce_sum(weights))
        return loss, gradients

    def _slice_gradients(self, inputs, total_weight, variables):
        x, y, sample_weight, weights = inputs
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True) if self._call_has_training_arg else self(x)
            reported, minimised = self._slice_losses(y, y_pred, sample_weight, weights, total_weight)
            scaled = self.optimizer.scale_loss(minimised)
        gradients = [densify(gradient) for gradient in tape.gradient(scaled, variables)]
        self._update_compiled_metrics(y, y_pred, sample_weight)
        return reported, gradients

    def _slice_losses(self, y, y_pred, sample_weight, weights, total_weight):
        """One micro-batch: what is reported (a weighted sum, or Keras's mean) and what is minimised."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        if self._compile_loss is not None:
            # Keras has divided by the number of replicas already, for the sum over replicas that follows.
            minimised = self.compute_loss(None, y, y_pred, sample_weight, training=True) / self.micro_batches
            return minimised * replicas, minimised
        loss_sum = self.weighted_loss_sum(y, y_pred, weights)
        minimised = tf.math.divide_no_nan(loss_sum, total_weight)
        for additional in self.losses:
            minimised += tf.cast(self._aggregate_additional_loss(additional), tf.float32) / self.micro_batches
        return loss_sum, minimised

    def _accumulated_gradients(self, inputs, total_weight, variables):
        inputs = keras.tree.map_structure(self._into_micro_batches, inputs, none_is_leaf=False)
        unconnected = []

        def body(index, loss, sums):
            one = keras.tree.map_structure(lambda tensor: tensor[index], inputs, none_is_leaf=False)
            one_loss, gradients = self._slice_gradients(one, total_weight, variables)
            unconnected[:] = [gradient is None for gradient in gradients]
            sums = [
                total if gradient is None else total + tf.cast(gradient, total.dtype)
                for total, gradient in zip(sums, gradients, strict=True)
            ]
            return index + 1, loss + one_loss, sums

        start = (tf.constant(0), tf.constant(0.0), [tf.zeros(v.shape, v.dtype) for v in variables])
        _, loss, sums = tf.while_loop(
            lambda index, loss, sums: index < self.micro_batches,
            body,
            start,
            maximum_iterations=self.micro_batches,
        )
        gradients = [None if missing else total for missing, total in zip(unconnected, sums, strict=True)]
        return loss, gradients

    def _into_micro_batches(self, tensor):
        count, batch = self.micro_batches, tensor.shape[0]
        if batch is not None and batch % count:
            raise InputError(
                f"found a batch of {batch} per replica with micro_batches={count}, expected a multiple "
                f"of {count}; change batch_size or micro_batches"
            )
        rows = -1 if batch is None else batch // count
        return tf.reshape(tensor, tf.concat([[count, rows], tf.shape(tensor)[1:]], axis=0))

    def _test_loss(self, x, y, sample_weight, weights):
        """Mean loss of this replica's batch, without additional losses (of mixtures of experts)."""
        y_pred = self(x, training=False) if self._call_has_training_arg else self(x)
        self._update_compiled_metrics(y, y_pred, sample_weight)
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=False)
        if self._compile_loss is not None:
            loss *= self.distribute_strategy.num_replicas_in_sync
        return loss

    def _update_compiled_metrics(self, y, y_pred, sample_weight):
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(y, y_pred, sample_weight=sample_weight)

    # ---------------------------------------------------------------- many steps, many replicas

    def make_train_function(self, force=False):
        if self._distribute_strategy is None:
            return super().make_train_function(force)
        if self.train_function is None or force:
            step, steps = self._replica_train_step, self.steps_per_execution
            self.train_function = self._distributed_function(step, steps)
        return self.train_function

    def make_test_function(self, force=False):
        if self._distribute_strategy is None:
            return super().make_test_function(force)
        if self.test_function is None or force:
            run = self._distributed_function(self._replica_test_step, 1)

            def repeat(iterator):
                # One by one, so that a last incomplete execution is still counted.
                logs = None
                for _ in range(self.steps_per_execution):
                    try:
                        logs = run(iterator)
                    except (StopIteration, tf.errors.OutOfRangeError):
                        if logs is None:
                            raise
                        break
                return logs

            self.test_function = repeat
        return self.test_function

    def _distributed_function(self, step, steps):
        """A function of an iterator that runs `steps` steps in one graph and returns the logs of the last."""
        strategy = self.distribute_strategy
        step = self._autoconvert_optionals(lambda data, step=step: _after(data, step))
        step = tf.autograph.experimental.do_not_convert(step)

        def on_data(data):
            extras = strategy.run(step, args=(data,))
            return {name: strategy.experimental_local_results(value)[0] for name, value in extras.items()}

        def on_iterator(iterator):
            extras = on_data(next(iterator))
            if steps > 1:
                _, extras = tf.while_loop(
                    lambda count, extras: count < steps,
                    lambda count, extras: (count + 1, on_data(next(iterator))),
                    (tf.constant(1), extras),
                )
            # Read outside the replicas: metric variables are then summed over them, so means are global.
            return {**self.get_metrics_result(), **extras}

        def on_batch(data):
            extras = on_data(data)
            return {**self.get_metrics_result(), **extras}

        if not self.run_eagerly:
            on_iterator = tf.function(on_iterator, reduce_retracing=True, autograph=False)
            on_batch = tf.function(on_batch, reduce_retracing=True, autograph=False)

        def function(iterator):
            if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
                return on_iterator(iterator)
            return on_batch(next(iterator))

        return function

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras hands a tuple of tensors to `strategy.reduce` here, which MultiWorkerMirroredStrategy refuses.
        # Without one Keras leaves building to the first trace; here the variables are needed before it.
        if (
            self.built
            and (self.optimizer is None or self.optimizer.built)
            and self._distribute_strategy is None
        ):
            return
        strategy = self.distribute_strategy
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = next(batches)
                break
        data_batch = keras.tree.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], data_batch, none_is_leaf=False
        )
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    # ---------------------------------------------------------------- compile

    def _prepare_compiled(self):
        strategy = self._distribute_strategy
        with self.distribute_strategy.scope():
            # Sums over millions of targets: float32 would stop counting at 2**24. Written past Keras's
            # attribute tracking, which would list the metric a second time.
            self.__dict__["_loss_tracker"] = keras.metrics.Mean(name="loss", dtype="float64")
        if self.optimizer is None:
            return
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            _refuse(inner, "gradient_accumulation_steps", "use compile(micro_batches=N)")
            _refuse(
                inner, "ema_overwrite_frequency", "leave it None and evaluate the average from a callback"
            )
        take_reduced_gradients(inner)


def _after(data, step):
    """`step(data)`, none of it before the data is there.

    At the end of a dataset of unknown size, TensorFlow runs whatever does not depend on the data before it
    reports the end: stock Keras then counts one batch too many in the mean loss and in `iterations`.
    """
    tensors = [value for value in keras.tree.flatten(data) if value is not None]
    with tf.control_dependencies(tensors):
        return step(data)


def _refuse(optimizer, option, remedy):
    value = getattr(optimizer, option, None)
    if value:
        raise InputError(
            f"found {option}={value} under several replicas, where Keras fails with it; {remedy}"
        )
