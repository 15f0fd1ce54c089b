"""What the quickstart shows: plain text of at most 80 columns."""

import shlex
import sys
import textwrap
from pathlib import Path

_TITLES = {
    "fp32": "ONNX, float32",
    "fp16": "ONNX, float16",
    "int8": "ONNX, 8-bit weights",
    "int4": "ONNX, 4-bit weights",
    "portable": "ONNX, float32, standard operators",
    "saved_model": "TensorFlow SavedModel",
}
_DURATIONS = {"small": "some minutes", "medium": "about an hour"}
_STAGES = {
    "read": "reading the text",
    "tokenizer": "learning the tokenizer",
    "train": "packing tokens to train on",
    "validation": "packing tokens to validate on",
}


class Page:
    """Prints the parts of the job on standard output; a quiet one prints nothing there."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self._stage = None

    def _print(self, text: str = "") -> None:
        if not self.quiet:
            print(text, flush=True)

    def introduction(self, output: Path, results: dict) -> None:
        """What will happen, and how long it takes."""
        duration = _DURATIONS.get(results["budget"], "a while")
        text = (
            f"Trains a small GPT-2 on {results['corpus']}, compares it with baselines, exports it, verifies "
            f"the export and lets it write. On 2 cores this takes {duration}. Everything goes to {output}/. "
            "It may be interrupted: the same command goes on."
        )
        self._print(textwrap.fill(text, 80, break_on_hyphens=False, break_long_words=False))

    def heading(self, title: str) -> None:
        """Begins a part."""
        self._print(f"\n{title}\n{'=' * len(title)}")

    def corpus_progress(self, stage: str, done: int, total: int) -> None:
        """One line on standard error for each stage of the corpus."""
        if stage != self._stage:
            self._stage = stage
            size = f" ({total / 1e6:.1f} MB)" if total >= 50_000 else ""
            print(f"{_STAGES.get(stage, stage)}{size}", file=sys.stderr, flush=True)

    def training(self, results: dict) -> None:
        """What was trained on, and how well it predicts."""
        data, metrics = results["data"], results["training"]
        score = metrics["validation"]
        self._print(
            f"text         {results['corpus']}\n"
            f"training     {_files(data['training_files'])}, {data['training_bytes'] / 1e6:.2f} MB, "
            f"{data['training_tokens']:,} tokens\n"
            f"validation   {_files(data['validation_files'], 'other ')}, "
            f"{data['validation_bytes'] / 1e6:.2f} MB\n"
            f"tokenizer    byte-pair, {data['vocabulary_size']:,} tokens, learned from the training files\n"
            f"model        GPT-2 of {metrics['parameters']:,} parameters, {metrics['steps']:,} steps\n"
            f"result       loss {score['loss']:.3f} nats a token, perplexity {score['perplexity']:.1f}, "
            f"{score['bits_per_byte']:.3f} bits per byte"
        )

    def baselines(self, results: dict) -> None:
        """Bits per byte side by side, as bars."""
        found = results["baselines"]
        given = f"LZMA after {found['lzma_training_bytes'] / 1e6:.1f} MB of training text"
        rows = {
            "token frequencies alone (unigram)": found["unigram"],
            "LZMA, its strongest setting": found["lzma"],
            given: found["lzma_given_training_text"],
            "this model": results["training"]["validation"]["bits_per_byte"],
        }
        longest = max(map(len, rows))
        largest = max(value for value in rows.values() if value)
        bar = _drawn("█", "#")
        self._print("bits per byte of the validation files, less is better:")
        for name, value in rows.items():
            if value:
                self._print(f"  {name:<{longest}}  {value:6.3f}  {bar * round(30 * value / largest)}")

    def verification(self, report: dict, sizes: dict[str, int]) -> None:
        """What was compared with Keras, one artifact after the other."""
        for name, title in _TITLES.items():
            entries = [entry for entry in report["artifacts"] if entry["artifact"] == name]
            if entries:
                self._print(f"{title} ({sizes.get(name, 0) / 1e6:.1f} MB)")
            for entry in entries:
                for label, finding in _findings(entry):
                    self._print(f"  {label:<12} {finding}")

    def completions(self, results: dict) -> None:
        """Prompts from files the model has not seen, and what it makes of them."""
        bar = _drawn("│", "|")
        for completion in results["completions"]:
            text = completion["prompt"] + bar + completion["text"]
            self._print(textwrap.indent(text, "    ") + "\n    " + "-" * 8)
        self._print(f"(the bar {bar} stands where the prompt ends)")

    def next_commands(self, output: Path, results: dict) -> None:
        """What to try now."""
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in results["seconds"].items())
        export, logs = shlex.quote(f"{output}/export"), shlex.quote(f"{output}/train/tensorboard")
        report = shlex.quote(f"{output}/export/verification.html")
        prompt = shlex.quote(results["completions"][0]["prompt"])
        self._print(
            f"\nDone: {spent}.\nEverything is in {output}/; try next:\n\n"
            f"  tfgpt generate {export} --temperature 0.7 --precision int8 -- {prompt}\n"
            f"  tensorboard --logdir {logs}\n"
            f"  tfgpt quickstart --output my-text --corpus PATH/TO/TEXT\n"
            f"  (in a browser) {report}\n"
        )


def _files(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}file{'' if count == 1 else 's'}"


def _findings(entry: dict) -> list[tuple[str, str]]:
    """(label, finding) for one comparison of verification.json."""
    if entry["kind"] == "lossless":
        worst, allowed = entry["max_relative_difference"], entry["tolerance"]
        return [("numbers", f"largest difference from Keras {worst:.1e}, allowed {allowed:.0e}")]
    if entry["kind"] == "rounded":
        worst, allowed = entry["max_relative_difference"], entry["tolerance"]
        finding = f"largest difference with the same weights {worst:.1e}, allowed {allowed:.0e}"
        return [("numbers", finding)]
    if entry["kind"] == "generation":
        agreed, total = entry["chosen_by_keras"], entry["greedy_tokens"]
        label = "engine" if "client" in entry else "generation"  # the only client that an export asks
        return [(label, f"{agreed:,} of {total:,} greedy tokens are those that Keras chooses")]
    limit = entry.get("limits", {}).get("perplexity_change")
    if limit is None:  # float32: its numbers are Keras's
        return []
    return [
        (
            "predictions",
            f"same first choice at {entry['top1_agreement']:.1%} of {entry['positions']:,} places",
        ),
        (
            "perplexity",
            f"{entry['reference_perplexity']:.3f} -> {entry['perplexity']:.3f} "
            f"({entry['perplexity_change']:+.3%}, allowed {limit:.1%})",
        ),
    ]


def _drawn(character: str, plain: str) -> str:
    """`character`, or `plain` where the terminal's encoding lacks it."""
    try:
        character.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return plain
    return character
