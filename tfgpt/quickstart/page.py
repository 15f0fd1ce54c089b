"""What the quickstart shows."""

import textwrap
from pathlib import Path


class Page:
    """Prints the parts of the job on standard output; a quiet one prints nothing."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet

    def _print(self, text: str = "") -> None:
        if not self.quiet:
            print(text, flush=True)

    def heading(self, title: str) -> None:
        """Begins a part."""
        self._print(f"\n{title}\n{'=' * len(title)}")

    def training(self, results: dict) -> None:
        """What was trained on, and how well it predicts."""
        data, metrics = results["data"], results["training"]
        score = metrics["validation"]
        self._print(
            f"text         {results['corpus']}: {data['training_files']:,} files "
            f"({data['training_bytes'] / 1e6:.1f} MB) to train on, {data['validation_files']:,} others "
            f"({data['validation_bytes'] / 1e6:.2f} MB) to validate\n"
            f"tokenizer    byte-pair, {data['vocabulary_size']:,} tokens, learned from the training files\n"
            f"model        GPT-2 of {metrics['parameters']:,} parameters, {metrics['steps']:,} steps\n"
            f"validation   loss {score['loss']:.3f} nats a token, perplexity {score['perplexity']:.1f}, "
            f"{score['bits_per_byte']:.3f} bits per byte"
        )

    def baselines(self, results: dict) -> None:
        """Bits per byte side by side, as bars."""
        found = results["baselines"]
        given = f"LZMA after {found['lzma_training_bytes'] / 1e6:.0f} MB of the training text"
        rows = {
            "token frequencies alone (unigram)": found["unigram"],
            "LZMA, its strongest setting": found["lzma"],
            given: found["lzma_given_training_text"],
            "this model": results["training"]["validation"]["bits_per_byte"],
        }
        longest = max(map(len, rows))
        largest = max(value for value in rows.values() if value)
        self._print("bits per byte of the validation files, less is better:")
        for name, value in rows.items():
            if value:
                self._print(f"  {name:<{longest}}  {value:5.3f}  {'█' * round(30 * value / largest)}")

    def verification(self, markdown: str) -> None:
        """The report's table."""
        self._print("\n".join(line for line in markdown.splitlines() if line.startswith("|"))[:4000])

    def completions(self, results: dict) -> None:
        """Prompts from files the model has not seen, and what it makes of them."""
        for completion in results["completions"]:
            text = completion["prompt"] + "│" + completion["text"]
            self._print(textwrap.indent(text, "    ") + "\n    " + "-" * 8)
        self._print("(the bar │ stands where the prompt ends)")

    def next_commands(self, output: Path, results: dict) -> None:
        """What to try now."""
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in results["seconds"].items())
        self._print(
            f"\nDone: {spent}. Everything is in {output}/; try next:\n\n"
            f'  tfgpt generate {output}/export "def main(" --temperature 0.7 --precision int8\n'
            f"  tensorboard --logdir {output}/train/tensorboard\n"
            f"  tfgpt quickstart --output my-text --corpus PATH/TO/TEXT\n"
            f"  cat {output}/export/verification.md\n"
        )
