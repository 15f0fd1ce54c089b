"""OpenAI's own releases of GPT-1 and GPT-2, read under the names that Hugging Face gave their tensors.

GPT-1 (https://github.com/openai/finetune-transformer-lm, train.py): one flat float32 array cut into
params_0.npy to params_9.npy, and params_shapes.json, which says how it is cut into tensors. The tensors stand
in the order in which train.py makes them: positions, tokens, then twelve of each block.

GPT-2 (https://github.com/openai/gpt-2, src/model.py): hparams.json and a TensorFlow checkpoint, model.ckpt.*.
TensorFlow is imported when such a checkpoint is opened.

Kernels are those of convolutions of width 1, `[1, in, out]`, and lose their first axis. No pickle is read.
"""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np

from tfgpt.errors import InputError, one_line
from tfgpt.paths import check_plain_file

# The last two parts of a name in GPT-1's and GPT-2's blocks -> Hugging Face's, within `h.{layer}.`.
BLOCK = {
    "attn/c_attn/w": "attn.c_attn.weight",
    "attn/c_attn/b": "attn.c_attn.bias",
    "attn/c_proj/w": "attn.c_proj.weight",
    "attn/c_proj/b": "attn.c_proj.bias",
    "ln_1/g": "ln_1.weight",
    "ln_1/b": "ln_1.bias",
    "mlp/c_fc/w": "mlp.c_fc.weight",
    "mlp/c_fc/b": "mlp.c_fc.bias",
    "mlp/c_proj/w": "mlp.c_proj.weight",
    "mlp/c_proj/b": "mlp.c_proj.bias",
    "ln_2/g": "ln_2.weight",
    "ln_2/b": "ln_2.bias",
}
GPT2_NAMES = {
    "model/wte": "wte.weight",
    "model/wpe": "wpe.weight",
    "model/ln_f/g": "ln_f.weight",
    "model/ln_f/b": "ln_f.bias",
}
# Before the blocks, whose order is that of `BLOCK`.
GPT1_FIRST = ("positions_embed.weight", "tokens_embed.weight")
GPT1_SHAPES = "params_shapes.json"
_SHAPES_BYTES = 1 << 20


class NumpyShards:
    """A `Reader` of GPT-1's numpy files.

    Raises:
        InputError: a file is missing, is not a flat float32 array, or they do not make the shapes together.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        shapes = _read_shapes(self.directory / GPT1_SHAPES)
        self.num_layers = (len(shapes) - len(GPT1_FIRST)) // len(BLOCK)
        names = (
            *GPT1_FIRST,
            *(f"h.{layer}.{name}" for layer in range(self.num_layers) for name in BLOCK.values()),
        )
        if len(names) != len(shapes) or not self.num_layers:
            raise InputError(
                f"{self.directory / GPT1_SHAPES} has {len(shapes)} shapes: expected {len(GPT1_FIRST)}, and "
                f"{len(BLOCK)} for each layer"
            )
        self._shapes = dict(zip(names, shapes, strict=True))
        ends = itertools.accumulate(math.prod(shape) for shape in shapes)
        self._ends = dict(zip(names, ends, strict=True))
        self._parts = _open_parts(self.directory)
        found, wanted = sum(part.size for part in self._parts), sum(map(math.prod, shapes))
        if found != wanted:
            raise InputError(
                f"{self.directory}: the params_*.npy hold {found} numbers, but {GPT1_SHAPES} asks for "
                f"{wanted}: download them again"
            )

    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return _squeezed(self._shapes[name])

    def dtype(self, name: str) -> str:
        """Always float32."""
        return "float32"

    def read(self, name: str) -> np.ndarray:
        """One tensor, which may lie across several files."""
        end = self._ends[name]
        start = end - math.prod(self._shapes[name])
        pieces, passed = [], 0
        for part in self._parts:
            pieces.append(part[max(start - passed, 0) : max(end - passed, 0)])
            passed += part.size
        return np.concatenate(pieces).reshape(self.shape(name))


class TensorFlowCheckpoint:
    """A `Reader` of GPT-2's TensorFlow checkpoint.

    Raises:
        InputError: there is not exactly one checkpoint, it is damaged, or TensorFlow is not installed.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        indexes = sorted(self.directory.glob("*.index"))
        if len(indexes) != 1:
            found = ", ".join(path.name for path in indexes) or "none"
            raise InputError(f"{directory} has {found} as *.index: expected one, model.ckpt.index")
        self._path = indexes[0]
        self._reader, shapes, self._dtypes = _open_checkpoint(self._path)
        self._theirs = {_gpt2_name(name): name for name in shapes}
        self._shapes = {ours: tuple(shapes[theirs]) for ours, theirs in self._theirs.items()}
        asked = sum(4 * math.prod(shape) for shape in self._shapes.values())
        data = sum(path.stat().st_size for path in self.directory.glob(f"{self._path.stem}.data-*"))
        if asked > data:
            raise InputError(
                f"{self._path} describes {asked} bytes of float32, but the data files beside it hold {data}: "
                "download them again"
            )

    def names(self) -> list[str]:
        """All tensor names, sorted; one that GPT-2 does not have keeps OpenAI's name."""
        return sorted(self._theirs)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return _squeezed(self._shapes[name])

    def dtype(self, name: str) -> str:
        """The dtype of a tensor, by NumPy's name."""
        return self._dtypes[self._theirs[name]]

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        import tensorflow as tf

        try:
            return self._reader.get_tensor(self._theirs[name]).reshape(self.shape(name))
        except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
            raise InputError(_damaged(self._path, error)) from None


def _read_shapes(path: Path) -> list[tuple[int, ...]]:
    check_plain_file(path, "a list of shapes")
    try:
        # The published file has 2 KB.
        if path.stat().st_size > _SHAPES_BYTES:
            raise ValueError("it is too long")
        shapes = [tuple(shape) for shape in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a list of shapes ({error}): download it again") from None
    sizes = [size for shape in shapes for size in shape]
    if any(type(size) is not int or not 0 < size < 2**40 for size in sizes) or any(
        not 1 <= len(shape) <= 3 for shape in shapes
    ):
        raise InputError(f"{path} has a shape that no tensor of GPT-1 has: download it again")
    return shapes


def _open_parts(directory: Path) -> list[np.ndarray]:
    """params_0.npy, params_1.npy, ... mapped into memory, none left out."""
    parts = []
    paths = [
        directory / f"params_{number}.npy" for number in range(len(list(directory.glob("params_*.npy"))))
    ]
    for path in paths:
        check_plain_file(path, "a numpy file")
        try:
            part = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise InputError(f"{path} is missing: download it again") from None
        except (OSError, ValueError, SyntaxError, OverflowError, RecursionError, MemoryError) as error:
            raise InputError(
                f"{path} is not a whole numpy file ({one_line(error)}): download it again"
            ) from None
        if part.ndim != 1 or part.dtype != np.float32:
            raise InputError(f"{path} is {part.dtype} of shape {part.shape}: expected one row of float32")
        parts.append(part)
    if not parts:
        raise InputError(f"{directory} has no params_0.npy: expected params_0.npy to params_9.npy")
    return parts


def _open_checkpoint(path: Path):
    """(TensorFlow's reader, {name: shape}, {name: dtype}) of a checkpoint's index."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise InputError(f"{path} is TensorFlow's: install tensorflow to read it ({error})") from None
    for file in (path, *path.parent.glob(f"{path.stem}.data-*")):
        check_plain_file(file, "a file of a TensorFlow checkpoint")
    try:
        reader = tf.train.load_checkpoint(str(path.with_suffix("")))
        dtypes = {name: dtype.name for name, dtype in reader.get_variable_to_dtype_map().items()}
        return reader, reader.get_variable_to_shape_map(), dtypes
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError, UnicodeDecodeError) as error:
        raise InputError(_damaged(path, error)) from None


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is not a whole TensorFlow checkpoint ({one_line(error)}): download it again"


def _gpt2_name(name: str) -> str:
    block = re.fullmatch(r"model/h(\d+)/(.+)", name)
    if block and block[2] in BLOCK:
        return f"h.{block[1]}.{BLOCK[block[2]]}"
    return GPT2_NAMES.get(name, name)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the width of a convolution, which is 1."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else tuple(shape)
