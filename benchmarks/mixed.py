"""Long prompts that come while others decode, in int8: the engine with its graph for them, and without.

Goal: above 1 times what one graph gives; two graphs whose threads spin against each other give less.

Command:  python benchmarks/mixed.py [--output benchmarks/results/NAME.json]
Setting:  random weights of GPT-2 124m (random_gpt2.py), 2 threads. Four requests of 16 tokens get 60 new ones
          each; beside them prompts of 128 tokens come one after another, two new tokens each, until the four
          are done. All tokens, read and new, by the time.
Hardware: any CPU; about 2 GB of disk for the export (--folder keeps it for the next run).
Time:     about 3 minutes on 2 cores, without the export.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import decode
import measure

SIDES = ("two graphs", "one graph")
NUM_DECODING, NEW_TOKENS, LONG = 4, 60, 128


def prepare_side(side: str, folder: Path):
    """The measurement of one side: {"value": tokens per second}."""
    import random_gpt2

    from tfgpt.generation.options import GenerationOptions
    from tfgpt.serving import Session

    session = Session.open(
        folder / "tfgpt", "int8", num_threads=measure.THREADS, prompt_graph=side == "two graphs"
    )
    decoding = GenerationOptions(max_new_tokens=NEW_TOKENS, end_of_text_ids=())
    reading = GenerationOptions(max_new_tokens=2, end_of_text_ids=())

    def measurement() -> dict:
        rows = session.submit([random_gpt2.prompt(16, seed) for seed in range(NUM_DECODING)], decoding)
        prompts = []
        start = time.perf_counter()
        while not all(row.done for row in rows):
            if not prompts or prompts[-1].done:
                prompts += session.submit([random_gpt2.prompt(LONG, len(prompts))], reading)
            session.engine.advance()
        tokens = NUM_DECODING * NEW_TOKENS + LONG * sum(prompt.row.num_new > 0 for prompt in prompts)
        elapsed = time.perf_counter() - start
        while not session.engine.idle:
            session.engine.advance()
        return {"value": tokens / elapsed}

    measurement()
    return measurement


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=7)
    parser.add_argument("--folder", type=Path, help="keep the weights and the export here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        return measure.serve(lambda: prepare_side(options.side, options.folder), decode.PACKAGES)

    with tempfile.TemporaryDirectory(prefix="tfgpt-mixed-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        decode.prepare_folder(folder, ["tfgpt int8"])
        commands = {
            side: [sys.executable, __file__, "--folder", str(folder), "--side", side] for side in SIDES
        }
        answers, facts = measure.side_by_side(commands, options.repetitions)
    rows = measure.values(answers)
    ratio = measure.ratio(rows["two graphs"], rows["one graph"])
    facts["setting"] = {"threads": measure.THREADS, "decoding": NUM_DECODING, "long_prompt": LONG}
    targets = [measure.Target("two graphs / one graph", ratio, 1.0)]
    measure.report("long prompts beside decoding, int8", "tokens/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
