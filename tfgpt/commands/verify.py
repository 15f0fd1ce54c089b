"""`tfgpt verify`: compares an export with Keras again, where it was received, without TensorFlow."""

import sys
from pathlib import Path

from tfgpt.commands.output import print_json
from tfgpt.errors import InputError
from tfgpt.paths import user_path

TEXT_ROWS, TEXT_LENGTH = 16, 128


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("export_dir", metavar="EXPORT_DIR")
    parser.add_argument(
        "--model", metavar="MODEL_DIR", help="compare with this model in Keras, not with its recorded answers"
    )
    parser.add_argument("--text", metavar="PATH", help="judge predictions on this text (needs --model)")
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="NAME",
        help="also ask onnxruntime, genai, optimum, tensorflow or node for tokens; all: those that are found",
    )
    parser.add_argument(
        "--client-at",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="the Python interpreter that has the client; for node, the folder with node_modules",
    )
    parser.add_argument("--html", metavar="FILE", help="also write the report as a page with plots")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments) -> int:
    """Shows each step on stderr, prints the report; 1 when a gate is missed."""
    places = dict(_name_and_path(each) for each in arguments.client_at)
    if arguments.text and not arguments.model:
        raise InputError(
            "found --text without --model, expected both: recorded answers are to a text of theirs"
        )
    if arguments.html and user_path(arguments.html).is_dir():
        raise InputError(f"found a directory {arguments.html}, expected a file for the page: add its name")
    model_dir, text = None, None
    if arguments.model:
        model_dir = user_path(arguments.model)
        text = _load(model_dir, arguments.text)
    from tfgpt_export.page import verification_html
    from tfgpt_export.recheck import verify_export
    from tfgpt_export.report import verification_page

    from tfgpt.files import write_text

    report = verify_export(
        user_path(arguments.export_dir),
        model_dir,
        text,
        client_names=arguments.client,
        client_places=places,
        progress=lambda step: print(f"verify: {step}", file=sys.stderr, flush=True),
    )
    if arguments.html:
        write_text(user_path(arguments.html), verification_html(report))
    if arguments.json:
        print_json(report)
    else:
        print(verification_page(report), end="")
    if not report["passed"]:
        more = len(report["failures"]) - 1
        others = f" (and {more} more, see the report)" if more else ""
        print(f"tfgpt: the export is not what was made: {report['failures'][0]}{others}", file=sys.stderr)
    return 0 if report["passed"] else 1


def _name_and_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"found --client-at {text!r}, expected NAME=PATH, as in genai=/path/to/python")
    return name, path


def _load(model_dir: Path, text: str | None):
    """Checks the model directory, loads Keras, and reads the text: int `[rows, length]`, or `None`."""
    from tfgpt.checkpoints.directory import read_model_config

    config = read_model_config(model_dir)[1]  # a wrong path is told before TensorFlow loads
    windows = None if text is None else read_windows(text, model_dir, config)
    from tfgpt.commands.backend import load_keras

    load_keras("comparing with Keras")
    return windows


def read_windows(path: str, model_dir: Path, config):
    """Pieces spread over a text, tokenized: int64 `[rows, length]`.

    Raises:
        InputError: no text there, too little of it, or no tokenizer.
    """
    import numpy as np

    from tfgpt.data.text import read_documents
    from tfgpt.tokenizers.loading import check_vocabulary, load_tokenizer

    tokenizer = load_tokenizer(model_dir)
    check_vocabulary(tokenizer, config.vocabulary_size, model_dir)
    length = min(TEXT_LENGTH, config.context_length)
    token_ids: list[int] = []
    for document in read_documents(path):
        token_ids += tokenizer.encode(document.text)
        if len(token_ids) >= 64 * TEXT_ROWS * length:  # enough to be spread over
            break
    if len(token_ids) < length:
        raise InputError(
            f"found {len(token_ids)} tokens in {path}, expected at least {length}; give a longer text"
        )
    starts = np.unique(np.linspace(0, len(token_ids) - length, TEXT_ROWS).astype(int))
    return np.array([token_ids[start : start + length] for start in starts], np.int64)
