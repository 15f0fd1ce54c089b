"""`verification_reference.npz`: Keras's answers as a file of a few hundred kB, read without pickle.

facts                   format, layers, vocabulary, context, whether the text was given     int64 [5]
signs.{width}           the signs of the sums over rows of that width, packed to bits
case.{n}.name|token_ids|mask|ends|sizes, case.{n}.{tensor}
text.*                  see `RecordedText`
measured.{precision}    what the artifact differed by when it was exported, in the order of `MEASURED`
greedy.prompts          padded with -1; greedy.token_ids|margins|sizes: see `GreedyReference`
"""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfgpt.errors import InputError, one_line
from tfgpt.replacing import replacing_file
from tfgpt_export.agreement import Agreement, Predict
from tfgpt_export.gates import JUDGED
from tfgpt_export.greedy import GreedyReference
from tfgpt_export.recorded import NUM_SUMS, RecordedAnswer, RecordedText, random_signs
from tfgpt_export.reference import Case

REFERENCE_FILE = "verification_reference.npz"
FORMAT = 1
MEASURED = (*JUDGED, "greedy")
_TEXT_FIELDS = ("token_ids", "likeliest", "likeliest_logits", "target_logits", "log_sums")


class SignSource:
    """Signs by width: one set for all tensors whose rows are equally wide."""

    def __init__(self):
        self._signs: dict[int, np.ndarray] = {}

    def of(self, name: str, width: int) -> np.ndarray:
        """int8 `[NUM_SUMS, width]`, the same at every call."""
        return self._signs.setdefault(width, random_signs(width, seed=width))


@dataclass(frozen=True)
class RecordedReference:
    """What of Keras's answers travels with an export; used as `KerasReference` is.

    Attributes:
        whole: False; tensors are compared by sums with signs, and logits of text where they are recorded.
        measured: precision -> measure -> what it differed by when it was exported.
    """

    num_layers: int
    vocabulary_size: int
    context_length: int
    text_is_given: bool
    answers: list[RecordedAnswer]
    text: RecordedText
    greedy: GreedyReference
    measured: dict[str, dict[str, float]] = field(default_factory=dict)
    whole = False

    def agreement(self, predict: Predict) -> Agreement:
        """Compares another model's predictions on the text."""
        return self.text.agreement(predict)


def write_reference(reference: RecordedReference, path: Path) -> None:
    """Writes the file, whole or not at all."""
    facts = (reference.num_layers, reference.vocabulary_size, reference.context_length)
    arrays = {"facts": np.array([FORMAT, *facts, reference.text_is_given], np.int64)}
    for number, answer in enumerate(reference.answers):
        case, start = answer.case, f"case.{number}."
        arrays |= {
            f"{start}name": np.array(case.name),
            f"{start}token_ids": case.token_ids.astype(np.int32),
            f"{start}mask": case.mask.astype(np.int8),
            f"{start}ends": np.array(case.ends, np.int32),
            f"{start}tensors": np.array(answer.names),
            f"{start}sizes": np.array([answer.sizes[name] for name in answer.names]),
            f"{start}widths": np.array([answer.signs[name].shape[1] for name in answer.names]),
            f"{start}sums": np.stack([answer.sums[name] for name in answer.names]),
        }
        for signs in answer.signs.values():
            arrays[f"signs.{signs.shape[1]}"] = np.packbits(signs > 0, axis=1)
    arrays |= {f"text.{field}": getattr(reference.text, field) for field in _TEXT_FIELDS}
    for name, measured in reference.measured.items():
        # NaN is what was not measured.
        arrays[f"measured.{name}"] = np.array([measured.get(measure, np.nan) for measure in MEASURED])
    greedy = reference.greedy
    longest = max(map(len, greedy.prompts))
    prompts = [[*prompt, *[-1] * (longest - len(prompt))] for prompt in greedy.prompts]
    arrays |= {
        "greedy.prompts": np.array(prompts, np.int32),
        "greedy.token_ids": greedy.token_ids,
        "greedy.margins": greedy.margins,
        "greedy.sizes": greedy.sizes,
    }
    with replacing_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_reference(path: Path) -> RecordedReference:
    """Reads the file.

    Raises:
        InputError: it is missing or damaged, or another version wrote it.
    """
    if not path.is_file():
        raise InputError(
            f"found no {path.name} in {path.parent}, expected the recorded answers of a verified export; "
            "give --model MODEL_DIR to compare with the model itself, or export again without --no-verify"
        )
    try:
        with path.open("rb") as file:
            arrays = dict(np.load(file, allow_pickle=False))
        return _reference(arrays)
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a whole reference ({one_line(error)}): copy the export again, or export it again"
        ) from error


def _reference(arrays: dict[str, np.ndarray]) -> RecordedReference:
    version, num_layers, vocabulary_size, context_length, text_is_given = arrays["facts"].tolist()
    if version != FORMAT:
        raise ValueError(f"its format is {version}, expected {FORMAT}")
    numbers = range(sum(name.endswith(".sums") for name in arrays))
    prompts = arrays["greedy.prompts"]
    return RecordedReference(
        num_layers=num_layers,
        vocabulary_size=vocabulary_size,
        context_length=context_length,
        text_is_given=bool(text_is_given),
        answers=[_answer(arrays, f"case.{number}.") for number in numbers],
        text=RecordedText(**{field: arrays[f"text.{field}"] for field in _TEXT_FIELDS}),
        greedy=GreedyReference(
            prompts=[[int(token) for token in row if token >= 0] for row in prompts],
            token_ids=arrays["greedy.token_ids"],
            margins=arrays["greedy.margins"],
            sizes=arrays["greedy.sizes"],
        ),
        measured={
            name.removeprefix("measured."): dict(zip(MEASURED, numbers.tolist(), strict=True))
            for name, numbers in arrays.items()
            if name.startswith("measured.")
        },
    )


def _answer(arrays: dict[str, np.ndarray], start: str) -> RecordedAnswer:
    case = Case(
        name=str(arrays[f"{start}name"]),
        token_ids=arrays[f"{start}token_ids"].astype(np.int64),
        mask=arrays[f"{start}mask"].astype(np.int64),
        ends=tuple(arrays[f"{start}ends"].tolist()),
    )
    names = [str(name) for name in arrays[f"{start}tensors"]]
    widths = arrays[f"{start}widths"].tolist()
    signs = {width: _unpacked(arrays[f"signs.{width}"], width) for width in set(widths)}
    return RecordedAnswer(
        case=case,
        sums=dict(zip(names, arrays[f"{start}sums"], strict=True)),
        sizes=dict(zip(names, arrays[f"{start}sizes"].tolist(), strict=True)),
        signs={name: signs[width] for name, width in zip(names, widths, strict=True)},
    )


def _unpacked(bits: np.ndarray, width: int) -> np.ndarray:
    """int8 `[NUM_SUMS, width]` of 1 and -1."""
    ones = np.unpackbits(bits, axis=1, count=width).astype(np.int8)
    if len(ones) != NUM_SUMS:
        raise ValueError(f"{len(ones)} sets of signs, expected {NUM_SUMS}")
    return 2 * ones - 1
