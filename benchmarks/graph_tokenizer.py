"""MB/s of tokenizers in tf.data, and how many random strings each gets exactly right.

Command:  python benchmarks/graph_tokenizer.py VOCABULARY [--corpus FILE] [--output FILE.json]
Setting:  the lines of a text in batches of 256 through tf.data, with GPT-2's vocabulary: tfgpt's
          GraphTokenizer, KerasHub's BytePairTokenizer, and tfgpt's fast tokenizer through tf.py_function.
          VOCABULARY holds encoder.json and vocab.bpe (or vocab.json and merges.txt). All sides in one
          process, A B A B.
Goal:     ids equal to the fast tokenizer's on every string, and at least KerasHub's speed.
Hardware: any CPU. Time: about 2 minutes on 2 cores.
"""

import argparse
import os
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import measure

BATCH_SIZE, NUM_STRINGS = 256, 2000
GRAPH, PEER, FAST = "tfgpt, in the graph", "KerasHub BytePairTokenizer", "tfgpt, through py_function"
PACKAGES = ("tfgpt", "tokenizers", "tensorflow", "tensorflow-text", "keras-hub")
# Scripts, spaces, controls, emoji, marks.
RANGES = (
    *((0x20, 0x7E),) * 3,
    *((0x0, 0x1F), (0xA0, 0x24F), (0x300, 0x36F), (0x400, 0x4FF), (0x600, 0x6FF), (0x900, 0x97F)),
    *((0x2000, 0x206F), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)),
)
PIECES = ("<|endoftext|>", "'s", "'ll", "  ", "\n\n", "\t", " \n ", " the", "123")


def random_strings(seed: int) -> list[str]:
    """NUM_STRINGS strings, each of up to 20 pieces or runs of one script."""
    generator = random.Random(seed)

    def part():
        if generator.random() < 0.3:
            return generator.choice(PIECES)
        first, last = generator.choice(RANGES)
        return "".join(chr(generator.randint(first, last)) for _ in range(generator.randint(1, 6)))

    return ["".join(part() for _ in range(generator.randint(1, 20))) for _ in range(NUM_STRINGS)]


def encoders(directory: Path) -> tuple[dict, object]:
    """{side: string [N] -> ids [N, (tokens)]} and the fast tokenizer."""
    import json

    import keras_hub
    import tensorflow as tf

    from tfgpt.tokenizers.byte_pair import BytePairTokenizer
    from tfgpt.tokenizers.graph import GraphTokenizer

    tokenizer = BytePairTokenizer.from_pretrained(directory)
    model = json.loads(tokenizer.backend.to_str())["model"]
    peer = keras_hub.tokenizers.BytePairTokenizer(
        vocabulary=model["vocab"],
        merges=[pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]],
        unsplittable_tokens=["<|endoftext|>"],
    )

    def call(texts):
        rows = tokenizer.encode_batch([text.decode(errors="replace") for text in texts.numpy()])
        return tf.ragged.constant(rows, dtype=tf.int32, row_splits_dtype=tf.int64)

    specification = tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1)
    sides = {
        GRAPH: GraphTokenizer.from_tokenizer(tokenizer).encode,
        PEER: peer,
        FAST: lambda texts: tf.py_function(call, [texts], specification),
    }
    return sides, tokenizer


def num_exact(encode, texts: list[str], expected: list[list[int]]) -> int:
    """How many of `texts` have exactly the ids of the fast tokenizer."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(BATCH_SIZE).map(encode)
    found = [row for batch in dataset for row in batch.to_list()]
    return sum(ids == expected_ids for ids, expected_ids in zip(found, expected, strict=True))


def prepare(encode, lines: list[str], num_bytes: int):
    """A measurement of {"value": MB/s} of all lines through a dataset, after one pass that traces and warms.

    KerasHub remembers the words that it has seen, so for it this is the speed on text that is known.
    """
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(lines).batch(BATCH_SIZE).map(encode, tf.data.AUTOTUNE)
    dataset = dataset.map(lambda ids: tf.size(ids.values, tf.int64))

    def run() -> dict:
        start = time.perf_counter()
        dataset.reduce(tf.constant(0, tf.int64), lambda total, count: total + count)
        return {"value": num_bytes / (time.perf_counter() - start) / 1e6}

    run()
    return run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vocabulary", type=Path, help="directory of GPT-2's vocabulary and merges")
    parser.add_argument("--corpus", type=Path, help="UTF-8 text (default: README.md and docs, repeated)")
    measure.add_arguments(parser, repetitions=5)
    options = parser.parse_args(arguments)
    root = Path(__file__).resolve().parents[1]
    paths = (
        [options.corpus] if options.corpus else [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    )
    lines = "".join(path.read_text(encoding="utf-8") for path in paths).split("\n")
    lines *= 1 if options.corpus else 20
    num_bytes = sum(len(line.encode()) + 1 for line in lines)

    sides, tokenizer = encoders(options.vocabulary)
    texts = random_strings(seed=1)
    expected = tokenizer.encode_batch(texts)
    exact = {name: num_exact(encode, texts, expected) for name, encode in sides.items()}
    for name, count in exact.items():
        print(f"{name}: {count} of {NUM_STRINGS} random strings exactly right")
    measurements = {name: prepare(encode, lines, num_bytes) for name, encode in sides.items()}
    rows = measure.values(measure.interleave(measurements, options.repetitions))
    targets = [
        measure.Target("random strings exactly right, share", exact[GRAPH] / NUM_STRINGS, 1.0),
        measure.Target("in the graph / KerasHub", measure.ratio(rows[GRAPH], rows[PEER]), 1.0),
        measure.Target("in the graph / py_function", measure.ratio(rows[GRAPH], rows[FAST]), 1.0),
    ]
    facts = {"versions": measure.versions(PACKAGES), "exact": exact, "num_bytes": num_bytes}
    measure.report("tokenizers in tf.data", "MB/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
