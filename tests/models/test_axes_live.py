"""The axes of GPT-1, GPT-Neo, GPT-J and GPT-NeoX against transformers' modules, weights mapped by hand."""

import numpy as np
import pytest

import tfgpt

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.fixtures.record_gpt2 import randomize  # noqa: E402  (needs the two above)

TOLERANCE = {"rtol": 0, "atol": 1e-5}


def gpt1():
    """Post-norm, no final norm, exact GELU replaced by its tanh form."""
    theirs = transformers.OpenAIGPTLMHeadModel(
        transformers.OpenAIGPTConfig(vocab_size=41, n_positions=20, n_embd=16, n_layer=3, n_head=2)
    )
    ours = tfgpt.ModelConfig(41, 20, 3, 2, 16, residual="post_norm", activation="gelu_tanh")
    names = {"decoder/token_embedding/table": "tokens_embed.weight"}
    names["decoder/position_embedding/table"] = "positions_embed.weight"
    for i in range(3):
        for here, there in (
            ("attention/qkv", "attn.c_attn"),
            ("attention/output", "attn.c_proj"),
            ("mlp/up", "mlp.c_fc"),
            ("mlp/down", "mlp.c_proj"),
        ):
            names[f"decoder/block_{i}/{here}/kernel"] = f"h.{i}.{there}.weight"
            names[f"decoder/block_{i}/{here}/bias"] = f"h.{i}.{there}.bias"
        for here, there in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
            names[f"decoder/block_{i}/{here}/scale"] = f"h.{i}.{there}.weight"
            names[f"decoder/block_{i}/{here}/offset"] = f"h.{i}.{there}.bias"
    return theirs, ours, lambda state: {here: state[f"transformer.{there}"] for here, there in names.items()}


def gpt_neo():
    """Alternating global and banded attention, unscaled scores, no biases on queries, keys and values."""
    theirs = transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(
            vocab_size=41,
            max_position_embeddings=20,
            hidden_size=16,
            num_layers=3,
            num_heads=2,
            attention_types=[[["local", "global", "local"], 1]],
            window_size=4,
        )
    )
    ours = tfgpt.ModelConfig(
        41,
        20,
        3,
        2,
        16,
        attention_pattern=("local", "global", "local"),
        window=4,
        score_scale=1.0,
        attention_bias=False,
    )

    def weights(state):
        mapped = {
            "decoder/token_embedding/table": state["transformer.wte.weight"],
            "decoder/position_embedding/table": state["transformer.wpe.weight"],
            "decoder/final_norm/scale": state["transformer.ln_f.weight"],
            "decoder/final_norm/offset": state["transformer.ln_f.bias"],
        }
        for i in range(3):
            theirs, here = f"transformer.h.{i}", f"decoder/block_{i}"
            parts = [state[f"{theirs}.attn.attention.{name}_proj.weight"].T for name in "qkv"]
            mapped[f"{here}/attention/qkv/kernel"] = np.concatenate(parts, axis=1)
            for name, there in (
                ("attention/output", "attn.attention.out_proj"),
                ("mlp/up", "mlp.c_fc"),
                ("mlp/down", "mlp.c_proj"),
            ):
                mapped[f"{here}/{name}/kernel"] = state[f"{theirs}.{there}.weight"].T
                mapped[f"{here}/{name}/bias"] = state[f"{theirs}.{there}.bias"]
            for name, there in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
                mapped[f"{here}/{name}/scale"] = state[f"{theirs}.{there}.weight"]
                mapped[f"{here}/{name}/offset"] = state[f"{theirs}.{there}.bias"]
        return mapped

    return theirs, ours, weights


def gptj():
    """Parallel residual with one norm, partial interleaved rotary positions, untied head with a bias."""
    theirs = transformers.GPTJForCausalLM(
        transformers.GPTJConfig(vocab_size=41, n_positions=20, n_embd=16, n_layer=3, n_head=2, rotary_dim=4)
    )
    ours = tfgpt.ModelConfig(
        41,
        20,
        3,
        2,
        16,
        residual="parallel_one_norm",
        positions="rotary_interleaved",
        rotary_dim=4,
        attention_bias=False,
        attention_output_bias=False,
        tie_embeddings=False,
        head_bias=True,
    )

    def weights(state):
        mapped = {
            "decoder/token_embedding/table": state["transformer.wte.weight"],
            "decoder/final_norm/scale": state["transformer.ln_f.weight"],
            "decoder/final_norm/offset": state["transformer.ln_f.bias"],
            "head/kernel": state["lm_head.weight"].T,
            "head/bias": state["lm_head.bias"],
        }
        for i in range(3):
            theirs, here = f"transformer.h.{i}", f"decoder/block_{i}"
            parts = [state[f"{theirs}.attn.{name}_proj.weight"].T for name in "qkv"]
            mapped[f"{here}/attention/qkv/kernel"] = np.concatenate(parts, axis=1)
            mapped[f"{here}/attention/output/kernel"] = state[f"{theirs}.attn.out_proj.weight"].T
            mapped[f"{here}/attention_norm/scale"] = state[f"{theirs}.ln_1.weight"]
            mapped[f"{here}/attention_norm/offset"] = state[f"{theirs}.ln_1.bias"]
            for name, there in (("up", "fc_in"), ("down", "fc_out")):
                mapped[f"{here}/mlp/{name}/kernel"] = state[f"{theirs}.mlp.{there}.weight"].T
                mapped[f"{here}/mlp/{name}/bias"] = state[f"{theirs}.mlp.{there}.bias"]
        return mapped

    return theirs, ours, weights


def gpt_neox():
    """Parallel residual, two norms, partial split rotary positions; heads interleaved in the checkpoint."""
    theirs = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=41,
            max_position_embeddings=20,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=40,
            rotary_pct=0.5,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        )
    )
    ours = tfgpt.ModelConfig(
        41,
        20,
        3,
        2,
        16,
        intermediate_dim=40,
        residual="parallel_two_norms",
        positions="rotary_split",
        rotary_dim=4,
        activation="gelu",
        tie_embeddings=False,
    )

    def weights(state):
        mapped = {
            "decoder/token_embedding/table": state["gpt_neox.embed_in.weight"],
            "decoder/final_norm/scale": state["gpt_neox.final_layer_norm.weight"],
            "decoder/final_norm/offset": state["gpt_neox.final_layer_norm.bias"],
            "head/kernel": state["embed_out.weight" if "embed_out.weight" in state else "lm_head.weight"].T,
        }
        for i in range(3):
            theirs, here = f"gpt_neox.layers.{i}", f"decoder/block_{i}"
            # [heads, (q, k, v), width] -> all queries, all keys, all values.
            kernel = state[f"{theirs}.attention.query_key_value.weight"].reshape(2, 3, 8, 16)
            bias = state[f"{theirs}.attention.query_key_value.bias"].reshape(2, 3, 8)
            mapped[f"{here}/attention/qkv/kernel"] = kernel.swapaxes(0, 1).reshape(48, 16).T
            mapped[f"{here}/attention/qkv/bias"] = bias.swapaxes(0, 1).reshape(48)
            for name, there in (
                ("attention/output", "attention.dense"),
                ("mlp/up", "mlp.dense_h_to_4h"),
                ("mlp/down", "mlp.dense_4h_to_h"),
            ):
                mapped[f"{here}/{name}/kernel"] = state[f"{theirs}.{there}.weight"].T
                mapped[f"{here}/{name}/bias"] = state[f"{theirs}.{there}.bias"]
            for name, there in (
                ("attention_norm", "input_layernorm"),
                ("mlp_norm", "post_attention_layernorm"),
            ):
                mapped[f"{here}/{name}/scale"] = state[f"{theirs}.{there}.weight"]
                mapped[f"{here}/{name}/offset"] = state[f"{theirs}.{there}.bias"]
        return mapped

    return theirs, ours, weights


@pytest.mark.parametrize("family", [gpt1, gpt_neo, gptj, gpt_neox])
def test_logits(family, rng):
    theirs, config, mapping = family()
    randomize(theirs, seed=2)
    theirs = theirs.eval().float()
    ours = tfgpt.CausalLM(config)
    mapped = mapping({name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    assert set(mapped) == set(ours.named_weights())
    for name, variable in ours.named_weights().items():
        variable.assign(mapped[name])
    token_ids = rng.integers(0, 41, (2, 17))
    with torch.no_grad():
        expected = theirs(torch.tensor(token_ids)).logits.numpy()
    np.testing.assert_allclose(ours(token_ids), expected, **TOLERANCE)
    assert np.abs(expected).max() > 1
