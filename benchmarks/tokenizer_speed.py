"""Megabytes of text tokenized per second, beside transformers' fast tokenizer and tiktoken; ids compared.

Command:  python benchmarks/tokenizer_speed.py [--data DIR] [--output benchmarks/results/NAME.json]
Goal:     at least the speed of each, on one core and on all, with the same ids everywhere.
Setting:  GPT-2's published vocabulary; the paragraphs of tinyshakespeare and wikitext-2 as one list of texts,
          given to `encode_batch` at once: on one core and on all of them. transformers is called as its users
          do (`tokenizer(texts)`), tiktoken with `encode_ordinary_batch`. transformers (the extra "parity")
          and tiktoken (no dependency) are left out, and said to be, where they are not installed.
          Each side runs in a process of its own, since the library reads the number of threads once.
          The ids of all sides are compared on the texts, and on 10,000 random Unicode strings of the tests.
Hardware: any CPU. Time: about 2 minutes on 2 cores.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import random
import sys
import time
from pathlib import Path

import measure

PACKAGES = ("tfgpt", "tokenizers", "transformers", "tiktoken")
ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TFGPT_DATA", ROOT / "../shared/data"))
CORPORA = ("tinyshakespeare/*.txt", "wikitext2/**/*.txt")
NUM_STRINGS = 10_000
MOST_BYTES = 8_000_000

OURS, TRANSFORMERS, TIKTOKEN = "tfgpt", "transformers", "tiktoken"


def real_texts(data: Path) -> list[str]:
    """Paragraphs of the corpora, up to MOST_BYTES."""
    texts, size = [], 0
    for path in sorted(path for pattern in CORPORA for path in data.glob(pattern)):
        for text in path.read_text(encoding="utf-8").split("\n\n"):
            if text and size < MOST_BYTES:
                texts.append(text)
                size += len(text.encode())
    if not texts:
        raise SystemExit(f"found no text in {data}, expected {' and '.join(CORPORA)}; pass --data")
    return texts


def random_texts() -> list[str]:
    """The random strings of tests/tokenizers."""
    sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
    from record_tokenizer import random_string

    generator = random.Random(7)
    return [random_string(generator) for _ in range(NUM_STRINGS)]


def encoder(side: str, data: Path, cores: int):
    """encode(texts) -> lists of ids, special tokens encoded as the characters they are."""
    vocabulary = data / "gpt2_bpe"
    if side == OURS:
        from tfgpt.tokenizers.loading import load_tokenizer

        tokenizer = load_tokenizer(vocabulary)
        return lambda texts: tokenizer.encode_batch(texts, allow_special=False)
    if side == TRANSFORMERS:
        import tempfile

        from transformers import GPT2Tokenizer

        with tempfile.TemporaryDirectory() as directory:
            for ours, theirs in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
                (Path(directory) / theirs).write_bytes((vocabulary / ours).read_bytes())
            tokenizer = GPT2Tokenizer.from_pretrained(directory)
        return lambda texts: tokenizer(texts, split_special_tokens=True).input_ids
    encoding = _tiktoken_encoding(vocabulary)
    return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=cores)


def _tiktoken_encoding(vocabulary: Path):
    """GPT-2's, as tiktoken's own loader makes it of OpenAI's two files."""
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    paths = {"vocab_bpe_file": "vocab.bpe", "encoder_json_file": "encoder.json"}
    ranks = data_gym_to_mergeable_bpe_ranks(**{name: str(vocabulary / file) for name, file in paths.items()})
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def side_main(side: str, data: Path, cores: int) -> int:
    """One side's process."""

    def prepare():
        texts, strings, encode = real_texts(data), random_texts(), encoder(side, data, cores)
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        digests = [_digest(ids) for ids in encode(strings)]
        encode(texts[:100])

        def measurement() -> dict:
            start = time.perf_counter()
            token_ids = encode(texts)
            seconds = time.perf_counter() - start
            return {"value": megabytes / seconds, "text": _digest(token_ids), "strings": digests}

        return measurement

    return measure.serve(prepare, PACKAGES)


def _digest(token_ids) -> str:
    return hashlib.sha256(json.dumps(token_ids).encode()).hexdigest()[:12]


def commands(data: Path, cores: int) -> dict[str, list[str]]:
    """The processes of the sides that can run here."""
    sides = [OURS]
    for package in (TRANSFORMERS, TIKTOKEN):
        if importlib.util.find_spec(package):
            sides.append(package)
        else:
            print(f"{package} is not installed: its side is left out", file=sys.stderr)
    threads = ["env", f"RAYON_NUM_THREADS={cores}", f"TOKENIZERS_PARALLELISM={str(cores > 1).lower()}"]
    script = [sys.executable, __file__, "--data", str(data), "--cores", str(cores)]
    return {side: [*threads, *script, "--side", side] for side in sides}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=5)
    parser.add_argument("--data", type=Path, default=DATA, help="where gpt2_bpe and the corpora are")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        return side_main(options.side, options.data, options.cores)
    rows, targets = {}, []
    for cores in (1, measure.machine()["cores"]):
        found, facts = measure.side_by_side(commands(options.data, cores), options.repetitions)
        values, label = measure.values(found), "1 core" if cores == 1 else f"{cores} cores"
        rows |= {f"{name}, {label}": numbers for name, numbers in values.items()}
        for name in values.keys() - {OURS}:
            ratio = measure.ratio(values[OURS], values[name])
            targets.append(measure.Target(f"{label}, ratio to {name}", ratio, 1.0))
    ours = found[OURS][0]
    for name in found.keys() - {OURS}:
        other = found[name][0]
        equal = sum(a == b for a, b in zip(ours["strings"], other["strings"], strict=True))
        targets.append(measure.Target(f"random strings with the ids of {name}", equal, NUM_STRINGS))
        same = float(ours["text"] == other["text"])
        targets.append(measure.Target(f"texts with the ids of {name}", same, 1.0))
    measure.report("tokenizer speed", "MB/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
