"""Reading a prompt on a CPU: tfgpt's engine and CTranslate2, prompts of 128 and 512 tokens.

Goal 2 of the project's numbers for one export: the best precision at least 1.2 times CTranslate2's int8.

Command:  python benchmarks/peers.py make ctranslate2
          python benchmarks/prefill.py [--output benchmarks/results/NAME.json]
Setting:  one directory of random weights (random_gpt2.py) for every side, 2 threads. The tokens of one prompt
          by the time from the call to its first new token; each side is asked for that token alone, and none
          is asked for the logits of the prompt.
Hardware: any CPU; about 3 GB of disk for the converted models (--folder keeps them for the next run).
Time:     about 2 minutes on 2 cores, without the conversions.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import decode
import measure

LENGTHS = (128, 512)
SIDES = ("tfgpt fp32", "tfgpt int8", "ctranslate2 fp32", "ctranslate2 int8")
PEER, LIMIT = "ctranslate2 int8", 1.2


def prepare_tfgpt(folder: Path, precision: str):
    """`read(prompt)` of a session."""
    from tfgpt.generation.options import GenerationOptions
    from tfgpt.serving import Session

    session = Session.open(folder / "tfgpt", precision=precision, num_threads=measure.THREADS)
    options = GenerationOptions(max_new_tokens=1, end_of_text_ids=())
    return lambda prompt: session.generate([prompt], options)


def prepare_ctranslate2(folder: Path, precision: str):
    """`read(prompt)` of CTranslate2's generator."""
    import ctranslate2
    from transformers import AutoTokenizer

    compute_type = {"fp32": "float32", "int8": "int8"}[precision]
    directory = str(folder / f"ctranslate2-{precision}")
    generator = ctranslate2.Generator(directory, compute_type=compute_type, intra_threads=measure.THREADS)
    tokenizer = AutoTokenizer.from_pretrained(folder / "weights")
    limits = {"beam_size": 1, "max_length": 1, "min_length": 1, "include_prompt_in_result": False}
    return lambda prompt: generator.generate_batch([tokenizer.convert_ids_to_tokens(prompt)], **limits)


def prepare_side(side: str, folder: Path):
    """The measurement of one side: {"value": tokens per second of the first length, "rates": of each}."""
    import random_gpt2

    name, precision = side.split()
    read = {"tfgpt": prepare_tfgpt, "ctranslate2": prepare_ctranslate2}[name](folder, precision)

    def measurement() -> dict:
        rates = {}
        for length in LENGTHS:
            prompt = random_gpt2.prompt(length)
            start = time.perf_counter()
            read(prompt)
            rates[str(length)] = length / (time.perf_counter() - start)
        return {"value": rates[str(LENGTHS[0])], "rates": rates}

    measurement()
    return measurement


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=9)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="measure only these")
    parser.add_argument("--folder", type=Path, help="keep weights and converted models here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        return measure.serve(lambda: prepare_side(options.side, options.folder), decode.PACKAGES)

    with tempfile.TemporaryDirectory(prefix="tfgpt-prefill-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        decode.prepare_folder(folder, options.sides)
        commands = {side: decode.command_of(side, folder, "--side", __file__) for side in options.sides}
        answers, facts = measure.side_by_side(commands, options.repetitions)
    rows = {
        f"{name}, {length} tokens": [answer["rates"][str(length)] for answer in found]
        for length in LENGTHS
        for name, found in answers.items()
    }
    targets = []
    for length in LENGTHS:
        own = [f"{name}, {length} tokens" for name in answers if name.startswith("tfgpt")]
        peer = f"{PEER}, {length} tokens"
        if own and peer in rows:
            best = max(own, key=lambda name: measure.ratio(rows[name], rows[peer]))
            targets.append(measure.Target(f"{best} / {PEER}", measure.ratio(rows[best], rows[peer]), LIMIT))
    facts["setting"] = {"threads": measure.THREADS}
    measure.report("reading a prompt", "tokens/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
