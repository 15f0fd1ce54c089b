"""Training GPT-2 124m on one GPU: tfgpt on Keras's JAX backend, and PyTorch's transformers.

Goal: none in numbers; what `fit` gives on a GPU, beside what its users had before.

Command:  python benchmarks/gpu_training.py [--output benchmarks/results/NAME.json]
Setting:  GPT-2 124m with random weights and no dropout, batch 8 x 1,024 random tokens, AdamW, arithmetic in
          bfloat16 with float32 weights (`mixed_bfloat16`, autocast). tfgpt: `CausalLM.fit`, compiled by XLA.
          transformers: `scaled_dot_product_attention`, torch.compile, the fused AdamW. Each side is a process
          of its own that compiles and warms up first; a measurement is 20 further steps, the start of `fit`
          included.
Hardware: one NVIDIA GPU with 40 GB of memory or more; jax and torch with CUDA in this interpreter.
          TensorFlow is not needed. Time: about 3 minutes.
"""

import argparse
import sys
import time

import measure

BATCH_SIZE, LENGTH, VOCABULARY = 8, 1024, 50257
NUM_STEPS = 20
WARMUP_STEPS = 3
PACKAGES = ("keras", "jax", "tfgpt", "torch", "transformers")
SIDES = ("tfgpt", "transformers eager", "transformers compiled")
# Both sides share the GPU's memory, and are asked in turn.
ENVIRONMENT = {"KERAS_BACKEND": "jax", "CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def tokens(num_steps: int, seed: int):
    """int32 `[num_steps * BATCH_SIZE, LENGTH + 1]`."""
    import numpy as np

    shape = (num_steps * BATCH_SIZE, LENGTH + 1)
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape, dtype=np.int32)


def prepare_tfgpt():
    import keras

    import tfgpt

    model = tfgpt.CausalLM.from_family("gpt2", size="124m", dtype="mixed_bfloat16", dropout=0.0)
    model.compile(keras.optimizers.AdamW(1e-4), jit_compile=True)

    def rate(num_steps: int, seed: int) -> dict:
        token_ids = tokens(num_steps, seed)
        start = time.perf_counter()
        history = model.fit(token_ids[:, :-1], token_ids[:, 1:], batch_size=BATCH_SIZE, epochs=1, verbose=0)
        seconds = time.perf_counter() - start
        return {"value": num_steps * BATCH_SIZE * LENGTH / seconds, "loss": history.history["loss"][-1]}

    rate(WARMUP_STEPS, seed=0)
    return lambda: rate(NUM_STEPS, seed=1)


def prepare_transformers(compiled: bool):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    config = GPT2Config(
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, attn_implementation="sdpa"
    )
    model = GPT2LMHeadModel(config).cuda()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def rate(num_steps: int, seed: int) -> dict:
        token_ids = torch.from_numpy(tokens(num_steps, seed)).view(num_steps, BATCH_SIZE, LENGTH + 1).long()
        start = time.perf_counter()
        for step in range(num_steps):
            batch = token_ids[step].cuda(non_blocking=True)
            with torch.autocast("cuda", torch.bfloat16):
                logits = forward(batch[:, :-1]).logits
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        last = loss.item()  # waits for the GPU
        return {"value": num_steps * BATCH_SIZE * LENGTH / (time.perf_counter() - start), "loss": last}

    rate(WARMUP_STEPS, seed=0)
    return lambda: rate(NUM_STEPS, seed=1)


def serve_side(side: str) -> int:
    preparations = {
        "tfgpt": prepare_tfgpt,
        "transformers eager": lambda: prepare_transformers(compiled=False),
        "transformers compiled": lambda: prepare_transformers(compiled=True),
    }
    return measure.serve(preparations[side], PACKAGES)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="measure only these")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        return serve_side(options.side)

    commands = {side: [sys.executable, __file__, "--side", side] for side in options.sides}
    answers, facts = measure.side_by_side(commands, options.repetitions, ENVIRONMENT)
    facts["losses"] = {name: rows[-1]["loss"] for name, rows in answers.items()}
    measure.report("training on a GPU", "tokens/s", measure.values(answers), [], options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
