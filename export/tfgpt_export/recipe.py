"""What an export is asked for, and what travels from stage to stage."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from tfgpt.config import ModelConfig
from tfgpt.errors import InputError, nearest
from tfgpt.families.family import Family
from tfgpt_export.blocks import BlockFormat
from tfgpt_export.bundle import MODEL_FILES
from tfgpt_export.keras_model import KerasModel
from tfgpt_export.plan import QuantizationPlan
from tfgpt_export.trace import Traced

# Servers whose directories can be written beside; see `tfgpt_export.layouts`.
LAYOUTS = ("triton", "tfserving")


@dataclass(frozen=True)
class ExportRecipe:
    """The options of one export.

    Args:
        precisions: which ONNX files are written, of `MODEL_FILES`.
        saved_model: whether a TensorFlow SavedModel is written too.
        portable: whether a float32 ONNX file without operators of com.microsoft is written too.
        verify: whether every artifact is compared with Keras; a difference stops the export. Without it the
            graph for long prompts is in the export too, whatever its rounding costs this model.
        block_size: numbers that share one scale in int8 and int4; a power of 2 from 16 on. `None` takes what
            `plan.form_chooser` says for each. In int8 all blocks of an output column have the same scale
            where that loses little (`plan.by_row`).
        verification_tokens: int `[rows, length]` of real text that quantization is judged on; `None` lets the
            model write its own.
        layouts: servers for which the files are laid out too, of `LAYOUTS`.
        name: what they call the model; `None` takes the export directory's name.
        calibration_tokens: int `[rows, length]` of other text, such as was trained on, that int4 is rounded
            by (`calibrate.py`); it needs the Keras model in memory. `None` rounds each block by itself.
        keep_stages: also keep what each stage made (`stages/` in the export directory).

    Raises:
        InputError: an unknown precision, none at all, an impossible block size, an unknown layout or one
            whose files are not written.
    """

    precisions: tuple[str, ...] = ("fp32", "int8")
    saved_model: bool = True
    portable: bool = False
    verify: bool = True
    block_size: int | None = None
    verification_tokens: np.ndarray | None = None
    calibration_tokens: np.ndarray | None = None
    keep_stages: bool = False
    layouts: tuple[str, ...] = ()
    name: str | None = None

    def __post_init__(self):
        for precision in self.precisions:
            if precision not in MODEL_FILES:
                raise InputError(f"there is no precision {precision!r}{nearest(precision, MODEL_FILES)}")
        if not self.precisions:
            raise InputError(f"no precision given: expected some of {', '.join(MODEL_FILES)}")
        for layout in self.layouts:
            if layout not in LAYOUTS:
                raise InputError(f"there is no layout {layout!r}{nearest(layout, LAYOUTS)}")
        if "tfserving" in self.layouts and not self.saved_model:
            raise InputError("found the layout tfserving without a SavedModel: leave out --no-saved-model")
        if self.block_size is not None:
            BlockFormat(8, self.block_size)


@dataclass(frozen=True)
class Artifact:
    """What one stage hands to the next. Stages add to it; they change nothing that is there.

    Args:
        model_dir: the model directory that is exported.
        output: the directory being written; it takes its final name when all is done.
        recipe, family, config: what is exported, and how.
        keras_model: the model that is exported, loaded when something asks for it.
        traced: after `trace`. graph: after `convert`, weights still inputs.
        files: precision -> ONNX file, after `attach`, `halve` and `quantize`; and "portable", "saved_model".
        plans: quantized precision -> how each weight is stored.
        counts: precision -> operator -> number of nodes.
        verification: one entry for each artifact that was compared with Keras.
        text_refused: why the SavedModel takes no text, after `saved_model`; `None` when it does.
        omitted: files that this model cannot have, and why.
    """

    model_dir: Path
    output: Path
    recipe: ExportRecipe
    family: Family
    config: ModelConfig
    keras_model: KerasModel
    traced: Traced | None = None
    graph: onnx.ModelProto | None = None
    files: dict[str, Path] = field(default_factory=dict)
    plans: dict[str, QuantizationPlan] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    verification: tuple[dict, ...] = ()
    text_refused: str | None = None
    omitted: dict[str, str] = field(default_factory=dict)

    def stage_path(self, name: str) -> Path | None:
        """Where a stage leaves a file to look at; `None` when nobody asked."""
        if not self.recipe.keep_stages:
            return None
        path = self.output / "stages" / name
        path.parent.mkdir(exist_ok=True)
        return path
