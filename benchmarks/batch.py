"""Many requests at once on a CPU, rows independent of each other: tfgpt's engine and CTranslate2.

Goal 3 of the project's numbers for one export: eight requests at once, fp32 at least 1.6 times CTranslate2's
fp32, int8 at least 2.2 times its int8 (prompts of 64 tokens); the other cases are told.

Command:  python benchmarks/peers.py make ctranslate2
          python benchmarks/batch.py [--output benchmarks/results/NAME.json]
Setting:  one directory of random weights (random_gpt2.py) for every side, 2 threads, greedy, 8 and 32 prompts
          of 64 and 512 tokens; tfgpt's sessions are opened for many rows. Steady state: the tokens by the
          time from the moment at which the last row has its first token to the moment at which the first row
          ends, so that all rows decode and prefill does not count. Each row gets 24 new tokens and one more
          for each row, since a side may begin to decode some rows while it still reads the prompts of others.
Hardware: any CPU; about 3 GB of disk for the converted models (--folder keeps them for the next run), 4 GB of
          memory.
Time:     about 10 minutes on 2 cores, most of it prompts of 32 x 512 tokens; --cases 8x64 takes two.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import decode
import measure

STEADY_TOKENS = 24
CASES = {"8x64": (8, 64), "8x512": (8, 512), "32x64": (32, 64), "32x512": (32, 512)}
SIDES = ("tfgpt fp32", "tfgpt int8", "ctranslate2 fp32", "ctranslate2 int8")
GOALS = (("tfgpt fp32", "ctranslate2 fp32", 1.6), ("tfgpt int8", "ctranslate2 int8", 2.2))


def prepare_tfgpt(folder: Path, precision: str):
    """`generate(prompts, new_tokens, clock)` of a session; `clock` is told the row of every new token."""
    from tfgpt.generation.options import GenerationOptions
    from tfgpt.serving import Session

    session = Session.open(folder / "tfgpt", precision=precision, num_threads=measure.THREADS, many_rows=True)

    def generate(prompts, new_tokens, clock):
        options = GenerationOptions(max_new_tokens=new_tokens, end_of_text_ids=())
        session.generate(prompts, options, on_token=lambda row, *_: clock(row))

    return generate


def prepare_ctranslate2(folder: Path, precision: str):
    """The same of CTranslate2's generator: all prompts in one batch."""
    import ctranslate2
    from transformers import AutoTokenizer

    compute_type = {"fp32": "float32", "int8": "int8"}[precision]
    directory = str(folder / f"ctranslate2-{precision}")
    generator = ctranslate2.Generator(directory, compute_type=compute_type, intra_threads=measure.THREADS)
    tokenizer = AutoTokenizer.from_pretrained(folder / "weights")

    def generate(prompts, new_tokens, clock):
        generator.generate_batch(
            [tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts],
            beam_size=1,
            max_length=new_tokens,
            min_length=new_tokens,
            include_prompt_in_result=False,
            callback=lambda step: clock(step.batch_id) or False,
        )

    return generate


def prepare_side(side: str, folder: Path, cases):
    """The measurement of one side: {"value": tokens per second of the first case, "rates": of each case}."""
    import random_gpt2

    name, precision = side.split()
    generate = {"tfgpt": prepare_tfgpt, "ctranslate2": prepare_ctranslate2}[name](folder, precision)

    def rate(num_rows: int, length: int) -> float:
        told, new_tokens = [], STEADY_TOKENS + num_rows
        prompts = [random_gpt2.prompt(length, seed) for seed in range(num_rows)]
        generate(prompts, new_tokens, lambda row: told.append((row, time.perf_counter())))
        if len(told) != num_rows * new_tokens:
            raise SystemExit(f"found {len(told)} tokens, expected {num_rows * new_tokens}")
        times = [[at for row, at in told if row == number] for number in range(num_rows)]
        start, end = max(each[0] for each in times), min(each[-1] for each in times)
        return sum(start < at <= end for _, at in told) / (end - start)

    def measurement() -> dict:
        rates = {case: rate(*CASES[case]) for case in cases}
        return {"value": rates[cases[0]], "rates": rates}

    rate(2, 16)
    return measurement


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="measure only these")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="ROWSxPROMPT")
    parser.add_argument("--folder", type=Path, help="keep weights and converted models here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        ready = lambda: prepare_side(options.side, options.folder, options.cases)  # noqa: E731
        return measure.serve(ready, decode.PACKAGES)

    with tempfile.TemporaryDirectory(prefix="tfgpt-batch-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        decode.prepare_folder(folder, options.sides)
        commands = {
            side: [*decode.command_of(side, folder, "--side", __file__), "--cases", *options.cases]
            for side in options.sides
        }
        answers, facts = measure.side_by_side(commands, options.repetitions)
    rows = {
        f"{name}, {case}": [answer["rates"][case] for answer in found]
        for case in options.cases
        for name, found in answers.items()
    }
    targets = [
        measure.Target(f"{ours} / {peer}, {case}", measure.ratio(rows[first], rows[second]), limit)
        for case in options.cases
        if case.startswith("8x")
        for ours, peer, limit in GOALS
        if (first := f"{ours}, {case}") in rows and (second := f"{peer}, {case}") in rows
    ]
    facts["setting"] = {"steady_tokens": STEADY_TOKENS, "threads": measure.THREADS}
    measure.report("decoding, many requests", "tokens/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
