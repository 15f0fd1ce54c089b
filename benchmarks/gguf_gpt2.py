"""A Hugging Face directory of GPT-2 as a GGUF file for llama.cpp. Needs gguf and safetensors, no PyTorch.

Names and layout: https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py (class GPT2Model).
"""

import json
from pathlib import Path

BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OUTSIDE = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight"}
OUTSIDE |= {f"ln_f.{part}": f"output_norm.{part}" for part in ("weight", "bias")}


def write(model_dir: Path, path: Path) -> None:
    """Writes `path` in float32; the head is the token table, as in the checkpoint."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((model_dir / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _write_vocabulary(writer, model_dir)
    for name, tensor in load_file(model_dir / "model.safetensors").items():
        name = name.removeprefix("transformer.")
        if ".c_" in name and name.endswith("weight"):
            tensor = tensor.T.copy()  # Conv1D keeps [in, out]
        writer.add_tensor(_name(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, layer, rest = name.split(".", 2)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{BLOCK[part]}.{kind}"


def _write_vocabulary(writer, model_dir: Path) -> None:
    import gguf

    vocabulary = json.loads((model_dir / "vocab.json").read_text(encoding="utf-8"))
    merges = (model_dir / "merges.txt").read_text(encoding="utf-8").splitlines()
    tokens = sorted(vocabulary, key=vocabulary.get)
    control = {"<|endoftext|>"}
    kinds = [gguf.TokenType.CONTROL if token in control else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([line for line in merges if line and not line.startswith("#version")])
    writer.add_bos_token_id(vocabulary["<|endoftext|>"])
    writer.add_eos_token_id(vocabulary["<|endoftext|>"])
