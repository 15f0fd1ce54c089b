"""Training steps per second of a small GPT-2: tfgpt, KerasHub and PyTorch's transformers.

Goal 2 of the project's numbers: at least 1.25 times transformers with torch.compile, and at least 1.0 times
KerasHub's `GPT2CausalLM.fit` with XLA.

Command:  python benchmarks/peers.py make torch
          python benchmarks/training_speed.py [--output benchmarks/results/NAME.json]
Setting:  benchmarks/shakespeare.py (4 layers, 4 heads, 128 wide, context 64, batch 12, fp32, AdamW, clipping
          by global norm), the same batches for every side, 2 threads. Each side is a process of its own that
          compiles and warms up first; a measurement is 100 further steps, timed without the first execution,
          so that neither the set-up of `fit` nor the start of a loop counts.
          Both Keras sides run with XLA and the same steps_per_execution; PyTorch's AdamW is the fused one.
Hardware: any CPU. Time: about 4 minutes on 2 cores.
"""

import argparse
import sys
import time

import measure
import shakespeare

NUM_STEPS = 100
WARMUP_STEPS = 30
PACKAGES = ("tensorflow", "keras", "keras-hub", "tfgpt", "torch", "transformers")
SIDES = ("tfgpt", "keras-hub", "transformers eager", "transformers compiled")


def prepare_tfgpt(steps_per_execution: int):
    """`CausalLM.fit`, with the compiler set as `tfgpt train` sets it."""
    from tfgpt.training.strategy import tune_cpu_compiler

    tune_cpu_compiler()
    corpus = shakespeare.load()
    model = shakespeare.tfgpt_model(len(corpus.vocabulary))
    return _prepare_fit(model, steps_per_execution)


def prepare_keras_hub(steps_per_execution: int):
    """`GPT2CausalLM.fit`."""
    import tensorflow as tf

    def inputs(token_ids):
        return {"token_ids": token_ids, "padding_mask": tf.ones_like(token_ids)}

    corpus = shakespeare.load()
    model = shakespeare.keras_hub_model(len(corpus.vocabulary))
    return _prepare_fit(model, steps_per_execution, inputs)


def _prepare_fit(model, steps_per_execution: int, inputs=lambda token_ids: token_ids):
    """Compiles either Keras model in the same way; returns the measurement."""
    import keras

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.times = []

        def on_train_batch_end(self, batch, logs=None):
            self.times.append((batch, time.perf_counter()))

    corpus = shakespeare.load()
    shakespeare.compile_keras(model, steps_per_execution)

    def rate(num_steps: int, seed: int) -> dict:
        clock = Clock()
        dataset = shakespeare.keras_dataset(corpus, num_steps, seed, inputs)
        model.fit(dataset, epochs=1, verbose=0, callbacks=[clock])
        (first, start), (last, end) = clock.times[0], clock.times[-1]
        return {"value": (last - first) / (end - start)}

    rate(max(WARMUP_STEPS, 2 * steps_per_execution), seed=0)
    return lambda: rate(NUM_STEPS, seed=1)


def prepare_transformers(compiled: bool):
    """Hugging Face's GPT-2 in nanoGPT's loop, eager or with torch.compile."""
    import torch

    torch.set_num_threads(measure.THREADS)
    corpus = shakespeare.load()
    model, optimizer = shakespeare.transformers_model(len(corpus.vocabulary))
    forward = torch.compile(model) if compiled else model

    def rate(num_steps: int, seed: int) -> dict:
        token_ids, labels = (
            torch.from_numpy(a).long() for a in shakespeare.batches(corpus.train, num_steps, seed)
        )
        times = []
        for step in range(num_steps):
            shakespeare.transformers_step(forward, optimizer, token_ids[step], labels[step], step)
            times.append(time.perf_counter())
        return {"value": (num_steps - 1) / (times[-1] - times[0])}

    rate(WARMUP_STEPS, seed=0)
    return lambda: rate(NUM_STEPS, seed=1)


def serve_side(side: str, steps_per_execution: int) -> int:
    preparations = {
        "tfgpt": lambda: prepare_tfgpt(steps_per_execution),
        "keras-hub": lambda: prepare_keras_hub(steps_per_execution),
        "transformers eager": lambda: prepare_transformers(compiled=False),
        "transformers compiled": lambda: prepare_transformers(compiled=True),
    }
    return measure.serve(preparations[side], PACKAGES)


def command_of(side: str, steps_per_execution: int) -> list[str]:
    """The command line of a side's process, with the interpreter of its environment."""
    import peers

    python = peers.python("torch") if side.startswith("transformers") else sys.executable
    return [str(python), __file__, "--side", side, "--steps-per-execution", str(steps_per_execution)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=7)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="measure only these")
    parser.add_argument(
        "--steps-per-execution", type=int, default=10, help="of both `fit`s (default: %(default)s)"
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        return serve_side(options.side, options.steps_per_execution)

    commands = {side: command_of(side, options.steps_per_execution) for side in options.sides}
    answers, facts = measure.side_by_side(commands, options.repetitions)
    rows = measure.values(answers)
    limits = {"transformers compiled": 1.25, "keras-hub": 1.0}
    targets = [
        measure.Target(f"tfgpt / {peer}", measure.ratio(rows["tfgpt"], rows[peer]), limit)
        for peer, limit in limits.items()
        if "tfgpt" in rows and peer in rows
    ]
    facts["steps_per_execution"] = options.steps_per_execution
    measure.report("training speed", "steps/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
