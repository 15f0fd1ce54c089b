"""README.md of an export: what the team reads that receives it, with a program in each language."""

from pathlib import Path

from tfgpt.files import write_text
from tfgpt_export.bundle import data_of
from tfgpt_export.checksums import CHECKSUMS, files_in
from tfgpt_export.report import TITLES, verdict

PROGRAMS = Path(__file__).with_name("readme")
# language -> its name for a code block, the template, and what has to be installed.
LANGUAGES = {
    "Python": ("python", "python.py", "pip install onnxruntime tokenizers numpy"),
    "JavaScript": ("js", "javascript.mjs", "npm install --ignore-scripts @huggingface/transformers"),
    "C++": (
        "cpp",
        "cpp.cpp",
        "the headers and libraries of onnxruntime-genai and onnxruntime (one release archive each)",
    ),
    "C#": ("csharp", "csharp.cs", "dotnet add package Microsoft.ML.OnnxRuntimeGenAI"),
}
# What transformers.js calls a precision.
JAVASCRIPT_DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8", "int4": "q4"}
PURPOSES = {
    "config.json": "the model's facts; Optimum and transformers.js read it",
    "generation_config.json": "default options of generation, and the ids that end a text",
    "genai_config.json": "the same for onnxruntime-genai (C++, C#, Java, Python)",
    "tokenizer.json": "text to token ids and back",
    "tokenizer_config.json": "special tokens",
    "chat_template.jinja": "how a conversation becomes a prompt",
    "tokenizer.onnx": "the tokenizer as a graph, for onnxruntime-extensions",
    "detokenizer.onnx": "the way back",
    "verification.html": "how every file was compared with the Keras model, with plots",
    "verification.md": "the same as text",
    "verification.json": "the same for programs",
    "verification_reference.npz": "recorded answers of the Keras model, for `tfgpt verify`",
}


def write_handover(directory: Path, report: dict, files: dict[str, Path], config) -> None:
    """Writes README.md. Call it when all else is written, before the checksums.

    Args:
        directory: the export.
        report: what verification.json holds.
        files: artifact -> its file or folder within `directory`.
        config: the `ModelConfig`.
    """
    names = [name for name in files if name in JAVASCRIPT_DTYPES]
    first = names[0] if names else None
    parts = [
        f"# {report['model']['type']}, exported by tfgpt {report['tfgpt']}",
        "",
        _facts(config),
        "",
        verdict(report) + (" See `verification.html`." if report["verified"] else ""),
        "",
        "## Files",
        "",
        *_files(directory, files, report["sizes"]),
        "",
        "## Run it",
        "",
        *_programs(directory, files, first),
        "## Check what you received",
        "",
        f"`sha256sum -c {CHECKSUMS}` says that every byte is what was exported. Where tfgpt is installed "
        "(TensorFlow is not needed), `tfgpt verify .` compares every precision with the recorded answers "
        "of the model on this very machine, and `tfgpt verify . --client all` asks the other runtimes found "
        "on it too.",
    ]
    write_text(directory / "README.md", "\n".join(parts) + "\n")


def _facts(config) -> str:
    ids = [
        f"{name} is token {value}"
        for name, value in (
            ("the beginning of a text", config.bos_token_id),
            ("the end of a text", config.eos_token_id),
            ("padding", config.pad_token_id),
        )
        if value is not None
    ]
    special = f" {'; '.join(ids).capitalize()}." if ids else " It has no special tokens."
    return (
        f"{config.num_layers} layers of {config.num_heads} heads, {config.hidden_dim} wide, a vocabulary of "
        f"{config.vocabulary_size:,} tokens. A prompt and its continuation together are at most "
        f"{config.context_length:,} tokens.{special}"
    )


def _files(directory: Path, files: dict[str, Path], sizes: dict[str, int]) -> list[str]:
    lines = ["| file | size | what it is |", "|---|---|---|"]
    covered = []
    for name, path in files.items():
        place = path.relative_to(directory).as_posix()
        data = data_of(path)
        beside = f" + `{data.name}`, which must stay beside it" if data.exists() else ""
        lines.append(f"| `{place}`{beside} | {sizes[name] / 1e6:,.1f} MB | {TITLES.get(name, name)} |")
        covered += [path, data]
    for pattern, purpose in (("engine*.onnx", ""), ("prompts*.onnx", ", for long prompts")):
        for path in sorted((directory / "onnx").glob(pattern)):
            place = path.relative_to(directory).as_posix()
            size = f"{path.stat().st_size / 1e6:,.1f} MB"
            lines.append(f"| `{place}` | {size} | the same for tfgpt's own engine alone{purpose} |")
    for path in files_in(directory):
        place = path.relative_to(directory).as_posix()
        if place in PURPOSES and path not in covered:
            lines.append(f"| `{place}` | {path.stat().st_size / 1e3:,.0f} kB | {PURPOSES[place]} |")
    return lines


def _programs(directory: Path, files: dict[str, Path], first: str | None) -> list[str]:
    if first is None:
        return ["There is no ONNX file in this export; `saved_model/1` needs TensorFlow alone.", ""]
    if not (directory / "tokenizer.json").is_file():
        return [
            "The model came without a tokenizer: prompts and answers are token ids. The graph's inputs and "
            "outputs are those of Optimum's and transformers.js's text generation with a cache.",
            "",
        ]
    graph = files[first].relative_to(directory).as_posix()
    lines = ["Each program runs in this directory and continues a prompt.", ""]
    for language, (name, template, needs) in LANGUAGES.items():
        text = (PROGRAMS / template).read_text(encoding="utf-8")
        text = text.replace("onnx/model.onnx", graph).replace(
            'dtype: "fp32"', f'dtype: "{JAVASCRIPT_DTYPES[first]}"'
        )
        lines += [f"**{language}** ({_code(needs)})", "", f"```{name}", text.rstrip(), "```", ""]
    return lines


def _code(needs: str) -> str:
    return f"`{needs}`" if needs.split()[0] in ("pip", "npm", "dotnet") else needs
