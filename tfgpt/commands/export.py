"""`tfgpt export`: a model directory becomes ONNX and SavedModel, verified against Keras."""

import json
import sys

from tfgpt.commands.output import print_json
from tfgpt.paths import user_path


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("model_dir", metavar="MODEL_DIR")
    parser.add_argument("--output", required=True, metavar="EXPORT_DIR")
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["fp32", "int8"],
        metavar="P",
        help="some of fp32, fp16, int8 and int4; by default fp32 and int8",
    )
    parser.add_argument(
        "--text",
        metavar="PATH",
        help="held-out text to judge rounding by: a file or a directory; by default the validation text that "
        "`tfgpt train` kept beside the model",
    )
    parser.add_argument(
        "--calibration-text",
        metavar="PATH",
        help="another text, to calibrate int4 on; by default the training text beside the model",
    )
    parser.add_argument(
        "--portable", action="store_true", help="also a float32 ONNX file of standard operators alone"
    )
    parser.add_argument("--no-saved-model", action="store_true", help="ONNX only")
    parser.add_argument("--no-verify", action="store_true", help="do not compare with Keras")
    parser.add_argument("--keep-stages", action="store_true", help="keep what each stage made, to look at")
    parser.add_argument(
        "--layout",
        nargs="+",
        action="extend",
        default=[],
        metavar="L",
        help="triton, tfserving: lay the files out for these servers, too",
    )
    parser.add_argument(
        "--name", help="what the layouts call the model; by default the name of the export directory"
    )
    parser.add_argument("--json", action="store_true", help="print the verification as JSON")


def run(arguments) -> int:
    """Exports, showing each stage on stderr, and prints the verification."""
    from tfgpt.checkpoints.directory import read_model_config
    from tfgpt.commands.backend import load_keras

    read_model_config(user_path(arguments.model_dir))  # a wrong path is told before TensorFlow loads
    text, calibration_text = _held_out(arguments), _calibration(arguments)
    load_keras("exporting")
    from tfgpt_export import export

    artifact = export(
        arguments.model_dir,
        arguments.output,
        precisions=tuple(arguments.precision),
        saved_model=not arguments.no_saved_model,
        portable=arguments.portable,
        verify=not arguments.no_verify,
        verification_tokens=text,
        calibration_tokens=calibration_text,
        keep_stages=arguments.keep_stages,
        layouts=tuple(dict.fromkeys(arguments.layout)),
        name=arguments.name,
        progress=show_stage,
    )
    name = "verification.json" if arguments.json else "verification.md"
    text = (artifact.output / name).read_text(encoding="utf-8")
    if arguments.json:
        print_json(json.loads(text))
    else:
        print(text, end="")
    return 0


def _held_out(arguments):
    """int64 `[rows, length]` of text, or `None` where none is wanted or there is none."""
    from tfgpt.evaluation.held_out import windows_beside, windows_of_text

    if arguments.text is not None:
        return windows_of_text(user_path(arguments.model_dir), user_path(arguments.text))
    return None if arguments.no_verify else windows_beside(user_path(arguments.model_dir))


def _calibration(arguments):
    """int64 `[rows, length]` of text, or `None` where int4 is not asked for or there is none."""
    from tfgpt.evaluation.held_out import windows_beside, windows_of_text

    model_dir = user_path(arguments.model_dir)
    if arguments.calibration_text is not None:
        return windows_of_text(model_dir, user_path(arguments.calibration_text))
    return windows_beside(model_dir, "train") if "int4" in arguments.precision else None


def show_stage(stage: str, step: str) -> None:
    """One line for each stage that begins."""
    print(f"export: {'verifying' if step == 'verify' else 'running'} {stage}", file=sys.stderr, flush=True)
