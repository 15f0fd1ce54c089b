"""Hugging Face model directories of published sizes with random weights, in shards. Loads numpy alone.

Shapes: https://huggingface.co/openai-community/gpt2-xl and https://huggingface.co/EleutherAI/gpt-j-6b
(config.json; transformers' modeling_gpt2.py and modeling_gptj.py).
"""

import json
from pathlib import Path

import numpy as np

SHARD_BYTES = 2_000_000_000

GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
        "vocab_size": 50257, "n_positions": 1024, "n_ctx": 1024, "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        "bos_token_id": 50256, "eos_token_id": 50256}  # fmt: skip
CONFIGS = {
    "gpt2-124m": {**GPT2, "n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-774m": {**GPT2, "n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-1558m": {**GPT2, "n_layer": 48, "n_head": 25, "n_embd": 1600},
    # As many weights as GPT-J has, in GPT-2's layout.
    "gpt2-6b": {**GPT2, "n_layer": 28, "n_head": 16, "n_embd": 4096},
    "gptj-6b": {"model_type": "gptj", "architectures": ["GPTJForCausalLM"], "activation_function": "gelu_new",
                "vocab_size": 50400, "n_positions": 2048, "n_layer": 28, "n_head": 16, "n_embd": 4096,
                "rotary_dim": 64, "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
                "attn_pdrop": 0.0, "tie_word_embeddings": False,
                "bos_token_id": 50256, "eos_token_id": 50256},
}  # fmt: skip


def tensor_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """{published name: shape}."""
    wide, vocabulary = config["n_embd"], config["vocab_size"]
    shapes = {"transformer.wte.weight": (vocabulary, wide)}
    is_gptj = config["model_type"] == "gptj"
    if not is_gptj:
        shapes["transformer.wpe.weight"] = (config["n_positions"], wide)
    block = _gptj_block(wide) if is_gptj else _gpt2_block(wide)
    for layer in range(config["n_layer"]):
        shapes |= {f"transformer.h.{layer}.{name}": shape for name, shape in block.items()}
    shapes |= {"transformer.ln_f.weight": (wide,), "transformer.ln_f.bias": (wide,)}
    if is_gptj:
        shapes |= {"lm_head.weight": (vocabulary, wide), "lm_head.bias": (vocabulary,)}
    return shapes


def _gpt2_block(wide: int) -> dict[str, tuple[int, ...]]:
    linear = {"attn.c_attn": (wide, 3 * wide), "attn.c_proj": (wide, wide),
              "mlp.c_fc": (wide, 4 * wide), "mlp.c_proj": (4 * wide, wide)}  # fmt: skip
    shapes = {f"{norm}.{part}": (wide,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[1:]}
    return shapes


def _gptj_block(wide: int) -> dict[str, tuple[int, ...]]:
    shapes = {"ln_1.weight": (wide,), "ln_1.bias": (wide,)}
    shapes |= {f"attn.{name}.weight": (wide, wide) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    for name, shape in {"mlp.fc_in": (4 * wide, wide), "mlp.fc_out": (wide, 4 * wide)}.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def write(directory: Path, size: str, dtype: str = "float32", shard_bytes: int = SHARD_BYTES) -> Path:
    """Writes config.json and the weights; memory holds one shard."""
    import ml_dtypes

    directory = Path(directory)
    directory.mkdir(parents=True)
    config = CONFIGS[size]
    (directory / "config.json").write_text(json.dumps({**config, "dtype": dtype}, indent=2) + "\n")
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    # One pool of random numbers, seen from another place by every tensor: making billions takes a minute.
    pool = (np.random.default_rng(0).standard_normal(2**24 + 7, np.float32) * np.float32(0.02)).astype(dtype)
    shards: list[dict[str, np.ndarray]] = [{}]
    weight_map, number, held = {}, 0, 0
    for name, shape in tensor_shapes(config).items():
        tensor = np.resize(np.roll(pool, 7919 * len(weight_map)), shape)
        if held and held + tensor.nbytes > shard_bytes:
            _save(shards.pop(), directory, number)
            shards, number, held = [{}], number + 1, 0
        shards[-1][name] = tensor
        weight_map[name] = _file(number)
        held += tensor.nbytes
    _save(shards.pop(), directory, number)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def _file(number: int) -> str:
    return f"model-{number + 1:05d}.safetensors"


def _save(tensors: dict[str, np.ndarray], directory: Path, number: int) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, directory / _file(number), metadata={"format": "pt"})


def num_bytes(size: str, dtype: str) -> tuple[int, int]:
    """(bytes of all weights, bytes of the two largest tensors) in `dtype`."""
    width = {"float32": 4, "bfloat16": 2, "float16": 2}[dtype]
    sizes = sorted(int(np.prod(shape)) * width for shape in tensor_shapes(CONFIGS[size]).values())
    return sum(sizes), sum(sizes[-2:])
