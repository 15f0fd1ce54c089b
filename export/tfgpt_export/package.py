"""Last stage: what stands beside the graphs, and the reports. See `genai_config` for onnxruntime-genai."""

import dataclasses
import shutil
from pathlib import Path

from tfgpt._version import __version__
from tfgpt.checkpoints.directory import (
    CONFIG_FILE,
    GENERATION_FILE,
    copy_tokenizer,
    write_generation_config,
)
from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.families.registry import family_of_model_type
from tfgpt.files import read_json, write_json, write_text
from tfgpt.paths import check_place_of_directory
from tfgpt.swapping import is_temporary
from tfgpt.tokenizers.file_names import CONFIGURATION_FILE
from tfgpt.tokenizers.loading import check_vocabulary, has_tokenizer, load_tokenizer
from tfgpt_export.bundle import artifact_sizes, data_of
from tfgpt_export.checksums import CHECKSUMS, REPORT, files_in, read_checksums, read_report, write_checksums
from tfgpt_export.handover import write_handover
from tfgpt_export.page import verification_html
from tfgpt_export.recipe import Artifact
from tfgpt_export.report import verification_page
from tfgpt_export.tokenizer_graph import GRAPHS, write_tokenizer_graphs


def check_directories(model_dir: Path, export_dir: Path) -> None:
    """Refuses to replace what must not be lost.

    Raises:
        InputError: the export would overwrite its own model, a file, or a directory that is not an export.
    """
    check_place_of_directory(export_dir)
    inside = model_dir.resolve()
    if inside == export_dir.resolve() or export_dir.resolve() in inside.parents:
        raise InputError(f"{export_dir} holds the model itself: name another directory for the export")
    if export_dir.is_dir() and (foreign := _not_of_an_export(export_dir)):
        raise InputError(
            f"found {foreign[0].relative_to(export_dir)} in {export_dir}, which no export wrote: expected a "
            "new or empty directory, or an export and nothing else; name another directory, or move it away"
        )


def _not_of_an_export(directory: Path) -> list[Path]:
    """Files and links in it that the checksums of an earlier export do not list: somebody else's.

    Anybody may have a list of checksums; an export's lists its own report.
    """
    listed = read_checksums(directory)
    is_export = REPORT in listed and {"tfgpt", "artifacts"} <= read_report(directory).keys()
    own = {directory / name for name in (*listed, CHECKSUMS)} if is_export else set()
    return [
        path
        for path in sorted(directory.rglob("*"))
        if path not in own
        and (path.is_symlink() or not path.is_dir())
        and not is_temporary(path.relative_to(directory).parts[0], directory)
    ]


def check_tokenizer(model_dir: Path, config: ModelConfig) -> None:
    """Refuses a tokenizer that is damaged, or makes ids which the model has no embedding for."""
    if has_tokenizer(model_dir):
        check_vocabulary(load_tokenizer(model_dir), config.vocabulary_size, model_dir)


def package_stage(artifact: Artifact) -> Artifact:
    """Writes the configs, as the clients read them, and the tokenizer."""
    if (artifact.model_dir / GENERATION_FILE).exists():
        shutil.copyfile(artifact.model_dir / GENERATION_FILE, artifact.output / GENERATION_FILE)
    else:
        write_generation_config(artifact.config, artifact.output)
    omitted = _write_tokenizer(artifact)
    values = client_config(read_json(artifact.model_dir / CONFIG_FILE), artifact)
    external = sorted(path.name for path in artifact.output.glob("onnx/*.onnx") if data_of(path).exists())
    if external:
        values["transformers.js_config"] = {"use_external_data_format": dict.fromkeys(external, 1)}
    write_json(artifact.output / CONFIG_FILE, values)
    if any(name != "saved_model" for name in artifact.files):
        write_json(artifact.output / "genai_config.json", genai_config(artifact))
    return dataclasses.replace(artifact, omitted=omitted)


def _write_tokenizer(artifact: Artifact) -> dict[str, str]:
    """The tokenizer's files and its graphs; returns the graphs that are not written, and why."""
    copy_tokenizer(artifact.model_dir, artifact.output)
    if not has_tokenizer(artifact.model_dir):
        return dict.fromkeys(GRAPHS, "the model has no tokenizer")
    tokenizer = load_tokenizer(artifact.model_dir)
    if not (artifact.output / "tokenizer.json").exists():
        # A vocabulary and its merges: the clients read tokenizer.json.
        tokenizer.save_pretrained(artifact.output, artifact.config.context_length)
    _state_settings(artifact)
    reason = write_tokenizer_graphs(tokenizer, artifact.output)
    return {} if reason is None else dict.fromkeys(GRAPHS, reason)


def _state_settings(artifact: Artifact) -> None:
    """States in tokenizer_config.json what clients would assume otherwise.

    transformers.js wants the file to be there, and takes spaces before punctuation away unless told not to.
    transformers chooses the tokenizer's class by the model_type, which here may be another family's.
    """
    path = artifact.output / CONFIGURATION_FILE
    missing = {"clean_up_tokenization_spaces": False}
    if artifact.family.served_as is not None:
        missing["tokenizer_class"] = "PreTrainedTokenizerFast"  # tokenizer.json as it is
    write_json(path, {**missing, **(read_json(path) if path.is_file() else {})})


def client_config(values: dict, artifact: Artifact) -> dict:
    """The model's config.json under a model_type that optimum and transformers.js know.

    They go by it for the names of keys and the width of a head alone, and compute the latter as hidden width
    over heads: where a model is another width, that is what its heads are wide together.
    """
    if artifact.family.served_as is None:
        return values
    known = family_of_model_type(artifact.family.served_as)
    [width] = [theirs for theirs, ours in known.fields.items() if ours == "hidden_dim"]
    return {
        **values,
        "model_type": known.model_type,
        "architectures": [known.architecture],
        width: artifact.config.num_heads * artifact.config.head_dim,
    }


def genai_config(artifact: Artifact) -> dict:
    """What onnxruntime-genai reads; it refuses keys that it does not know."""
    config = artifact.config
    first = next(path for name, path in artifact.files.items() if name != "saved_model")
    model = {
        "type": "decoder",
        "vocab_size": config.vocabulary_size,
        "context_length": config.context_length,
        "decoder": {
            "filename": str(first.relative_to(artifact.output)),
            "head_size": config.head_dim,
            "hidden_size": config.hidden_dim,
            "num_attention_heads": config.num_heads,
            "num_hidden_layers": config.num_layers,
            "num_key_value_heads": config.num_key_value_heads,
        },
    }
    end = config.eos_token_id
    padding = config.pad_token_id if config.pad_token_id is not None else end
    for name, token in (("bos", config.bos_token_id), ("eos", end), ("pad", padding)):
        if token is not None:
            model[f"{name}_token_id"] = token
    # The attention operator writes new slots in place, in a buffer of max_length slots.
    search = {"max_length": config.context_length, "past_present_share_buffer": True}
    return {"model": model, "search": {**search, "top_k": min(50, config.vocabulary_size)}}


def write_reports(artifact: Artifact) -> None:
    """Writes verification.json, .md and .html, README.md and, last, the checksums of everything."""
    output, recipe = artifact.output, artifact.recipe
    report = {
        "tfgpt": __version__,
        "verified": recipe.verify,
        "passed": recipe.verify,  # an artifact that misses a gate ends the export before this
        "failures": [],
        "compared_with": "Keras",
        "text": "the model's own" if recipe.verification_tokens is None else "given",
        "model": {
            "type": artifact.family.model_type,
            "vocabulary_size": artifact.config.vocabulary_size,
            "context_length": artifact.config.context_length,
        },
        "config": artifact.config.to_dict(),
        "sizes": artifact_sizes(output),
        "operators": artifact.counts,
        "omitted": artifact.omitted,
        "files": [path.relative_to(output).as_posix() for path in files_in(output)],
        "artifacts": list(artifact.verification),
        "skipped": [],
    }
    write_json(output / REPORT, report)
    write_text(output / "verification.md", verification_page(report))
    write_text(output / "verification.html", verification_html(report))
    write_handover(output, report, artifact.files, artifact.config)
    write_checksums(output)
