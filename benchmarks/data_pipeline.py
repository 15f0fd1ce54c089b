"""Tokens per second of reading, tokenizing and packing, and of the training dataset, beside plain ways.

Command:  python benchmarks/data_pipeline.py [--output benchmarks/results/NAME.json]
Setting:  packing: the sources of Python's standard library, from files to tokens on disk, with one byte-pair
          vocabulary of 8,192 learned from them. The plain way reads file after file and calls transformers'
          tokenizer, loaded from tfgpt's saved files, on one text at a time; both write the same tokens, which
          is checked. Without transformers (the extra "parity") that side is left out and said to be.
          dataset: batches of 12 windows of 64 tokens out of these shards, drained inside TensorFlow. The
          plain way is nanoGPT's get_batch (random places in a memory map, NumPy) in Dataset.from_generator.
          All sides run in this process, in turn, A B A B; the tokenizer takes a thread for each core.
Hardware: any CPU. Time: about 2 minutes on 2 cores.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import measure
import numpy as np

from tfgpt.data.packing import write_shards
from tfgpt.data.shards import TokenShards
from tfgpt.data.text import read_files, standard_library_documents, standard_library_files
from tfgpt.tokenizers.byte_pair import BytePairTokenizer

PACKAGES = ("tfgpt", "tokenizers", "transformers", "tensorflow", "numpy")
VOCABULARY_SIZE = 8192
CONTEXT_LENGTH, BATCH_SIZE, NUM_BATCHES = 64, 12, 20_000

PACK, PLAIN_PACK = "packing, tfgpt", "packing, transformers one by one"
STREAM, PLAIN_STREAM = "dataset, tfgpt", "dataset, get_batch in a generator"


def timed(work) -> dict:
    """{"value": millions of tokens per second} of `work()`, which returns how many tokens it made."""
    start = time.perf_counter()
    num_tokens = work()
    return {"value": num_tokens / (time.perf_counter() - start) / 1e6}


def pack(tokenizer: BytePairTokenizer, directory: Path) -> int:
    """tfgpt: from files to shards."""
    return write_shards(standard_library_documents(), tokenizer, directory).num_tokens


def plain_pack(tokenizer, path: Path) -> int:
    """One text at a time through transformers, into one file."""
    num_tokens = 0
    with open(path, "wb") as file:
        for document in read_files(standard_library_files()):
            token_ids = [*tokenizer(document.text).input_ids, tokenizer.eos_token_id]
            num_tokens += len(token_ids)
            file.write(np.asarray(token_ids, np.uint16).tobytes())
    return num_tokens


def drain(dataset) -> int:
    """Takes NUM_BATCHES elements inside TensorFlow: how many tokens they held."""
    import tensorflow as tf

    count = dataset.take(NUM_BATCHES).reduce(
        np.int64(0), lambda total, element: total + tf.size(element[0], tf.int64)
    )
    return int(count)


def plain_dataset(shards: TokenShards):
    """nanoGPT's get_batch (train.py) as a tf.data source."""
    import tensorflow as tf

    tokens, generator = shards.window(0, shards.num_tokens), np.random.default_rng(0)

    def batches():
        while True:
            starts = generator.integers(0, len(tokens) - CONTEXT_LENGTH, BATCH_SIZE)
            token_ids = np.stack(
                [tokens[start : start + CONTEXT_LENGTH].astype(np.int32) for start in starts]
            )
            labels = np.stack(
                [tokens[start + 1 : start + 1 + CONTEXT_LENGTH].astype(np.int32) for start in starts]
            )
            yield token_ids, labels

    specification = tf.TensorSpec((BATCH_SIZE, CONTEXT_LENGTH), tf.int32)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=(specification, specification))
    return dataset.prefetch(tf.data.AUTOTUNE)


def measurements_in(directory: Path, tokenizer: BytePairTokenizer) -> dict:
    """Every side by its name, ready to be called."""
    from tfgpt.data.dataset import training_dataset

    shards = write_shards(standard_library_documents(), tokenizer, directory / "shards")
    stream, plain_stream = training_dataset(shards, CONTEXT_LENGTH, BATCH_SIZE), plain_dataset(shards)
    sides = {PACK: lambda: timed(lambda: pack(tokenizer, directory / "again"))}
    if importlib.util.find_spec("transformers"):
        from transformers import AutoTokenizer

        tokenizer.save_pretrained(directory / "tokenizer")
        # Files longer than the model's context make transformers warn; the length is of no concern here.
        reference = AutoTokenizer.from_pretrained(directory / "tokenizer")
        plain_pack(reference, directory / "plain.bin")
        if not np.array_equal(np.fromfile(directory / "plain.bin", np.uint16), shards.all_tokens()):
            raise SystemExit("found other tokens from transformers than from tfgpt, expected the same")
        sides[PLAIN_PACK] = lambda: timed(lambda: plain_pack(reference, directory / "plain.bin"))
    else:
        print("transformers is not installed: its side is left out", file=sys.stderr)
    sides[STREAM] = lambda: timed(lambda: drain(stream))
    sides[PLAIN_STREAM] = lambda: timed(lambda: drain(plain_stream))
    return sides


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=5)
    options = parser.parse_args(arguments)
    tokenizer = BytePairTokenizer.train(
        (document.text for document in standard_library_documents()), VOCABULARY_SIZE
    )
    with tempfile.TemporaryDirectory() as directory:
        sides = measurements_in(Path(directory), tokenizer)
        num_tokens = TokenShards.open(Path(directory) / "shards").num_tokens
        answers = measure.interleave(sides, options.repetitions)
    rows = measure.values(answers)
    tokens_per_batch = CONTEXT_LENGTH * BATCH_SIZE
    batches = 1e6 * measure.summary(rows[STREAM])["median"] / tokens_per_batch
    targets = [
        measure.Target("dataset, batches of 12 x 64 per second", batches, 2000.0),
        measure.Target("dataset, ratio", measure.ratio(rows[STREAM], rows[PLAIN_STREAM]), 1.0),
    ]
    if PLAIN_PACK in rows:
        targets.append(measure.Target("packing, ratio", measure.ratio(rows[PACK], rows[PLAIN_PACK]), 1.0))
    facts = {
        "versions": measure.versions(PACKAGES),
        "num_tokens": num_tokens,
        "disturbance": measure.disturbance(answers),
    }
    measure.report("data pipeline", "million tokens/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
