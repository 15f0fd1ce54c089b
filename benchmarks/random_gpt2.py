"""A Hugging Face model directory of GPT-2 124m with random weights, the same file for every side.

Neither tfgpt nor a peer makes the weights, so none can make them to its liking. numpy and safetensors only.
Shapes: https://huggingface.co/openai-community/gpt2/blob/main/config.json (Conv1D kernels are [in, out]).
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np

VOCABULARY_SIZE = 50257
CONTEXT_LENGTH = 1024
NUM_LAYERS = 12
NUM_HEADS = 12
HIDDEN_DIM = 768

# With GPT-2's own 0.02 everywhere a random model repeats the last token for ever, and comparing greedy tokens
# would compare nothing. Kernels this large let the blocks drown the embedding: the text never settles.
KERNEL_DEVIATION = 0.05
TABLE_DEVIATION = 0.02

CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "vocab_size": VOCABULARY_SIZE,
    "n_positions": CONTEXT_LENGTH,
    "n_ctx": CONTEXT_LENGTH,
    "n_embd": HIDDEN_DIM,
    "n_layer": NUM_LAYERS,
    "n_head": NUM_HEADS,
    "layer_norm_epsilon": 1e-5,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "torch_dtype": "float32",
}


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """{name as in Hugging Face's GPT2LMHeadModel: shape}; the tied head is not stored."""
    wide = 4 * HIDDEN_DIM
    block = {
        "ln_1.weight": (HIDDEN_DIM,),
        "ln_1.bias": (HIDDEN_DIM,),
        "attn.c_attn.weight": (HIDDEN_DIM, 3 * HIDDEN_DIM),
        "attn.c_attn.bias": (3 * HIDDEN_DIM,),
        "attn.c_proj.weight": (HIDDEN_DIM, HIDDEN_DIM),
        "attn.c_proj.bias": (HIDDEN_DIM,),
        "ln_2.weight": (HIDDEN_DIM,),
        "ln_2.bias": (HIDDEN_DIM,),
        "mlp.c_fc.weight": (HIDDEN_DIM, wide),
        "mlp.c_fc.bias": (wide,),
        "mlp.c_proj.weight": (wide, HIDDEN_DIM),
        "mlp.c_proj.bias": (HIDDEN_DIM,),
    }
    shapes = {"wte.weight": (VOCABULARY_SIZE, HIDDEN_DIM), "wpe.weight": (CONTEXT_LENGTH, HIDDEN_DIM)}
    for layer in range(NUM_LAYERS):
        shapes |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    shapes |= {"ln_f.weight": (HIDDEN_DIM,), "ln_f.bias": (HIDDEN_DIM,)}
    return {f"transformer.{name}": shape for name, shape in shapes.items()}


def write(directory: Path, seed: int = 0) -> Path:
    """Writes config.json, model.safetensors and GPT-2's tokenizer (from ../shared/data or $TFGPT_DATA)."""
    from safetensors.numpy import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors = {name: _random_tensor(random, name, shape) for name, shape in tensor_shapes().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    source = _tokenizer_directory()
    shutil.copy(source / "encoder.json", directory / "vocab.json")
    shutil.copy(source / "vocab.bpe", directory / "merges.txt")
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}\n')
    return directory


def prompt(length: int, seed: int = 0) -> list[int]:
    """A prompt of random token ids, without the end-of-text id."""
    return np.random.default_rng(seed).integers(0, VOCABULARY_SIZE - 1, length).tolist()


def _random_tensor(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if "ln_" in name:
        values = random.standard_normal(shape, np.float32) * 0.1
        return values + np.float32(1) if name.endswith("weight") else values
    deviation = TABLE_DEVIATION if ".wte." in name or ".wpe." in name else KERNEL_DEVIATION
    return random.standard_normal(shape, np.float32) * np.float32(deviation)


def _tokenizer_directory() -> Path:
    data = Path(os.environ.get("TFGPT_DATA") or Path(__file__).resolve().parents[1] / "../shared/data")
    path = data / "gpt2_bpe"
    if not path.is_dir():
        raise SystemExit(
            f"found no {path}, expected GPT-2's vocabulary there, set TFGPT_DATA to the data's directory"
        )
    return path
