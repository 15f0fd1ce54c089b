"""gpt-oss against transformers in the same process: gradients, MXFP4, both directions, bfloat16, training."""

import json

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

import tfgpt
from tests.fixtures.tiny_models import tiny_model
from tfgpt.checkpoints.mxfp4 import decode

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def load_theirs(directory):
    return transformers.GptOssForCausalLM.from_pretrained(
        directory, attn_implementation="eager", experts_implementation="eager"
    )


def logits_of(model, token_ids):
    with torch.no_grad():
        return model(torch.tensor(token_ids)).logits.float().numpy()


@pytest.mark.parametrize("variant", ["base", "others"])
def test_round_trip_through_transformers_is_bit_equal(fixtures_directory, tmp_path, variant, rng):
    source = fixtures_directory / "gpt_oss" / variant
    model = tfgpt.CausalLM.from_pretrained(source)
    model.save_pretrained(tmp_path / "ours")
    theirs = load_theirs(tmp_path / "ours")
    token_ids = rng.integers(1, 53, (2, 40))
    np.testing.assert_array_equal(logits_of(theirs, token_ids), logits_of(load_theirs(source), token_ids))
    first, second = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "ours"))
    assert set(first) == set(second)
    for name, tensor in first.items():
        np.testing.assert_array_equal(second[name], tensor)


def test_gradients(rng):
    """Relative 1e-4 of each weight's largest: float32 sums of 80 tokens in another order."""
    theirs = tiny_model("gpt_oss/others")
    token_ids = rng.integers(1, 53, (2, 40))
    theirs(torch.tensor(token_ids), labels=torch.tensor(token_ids)).loss.backward()
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = tfgpt.CausalLM.from_pretrained(folder)
    with tf.GradientTape() as tape:
        logits = ours(token_ids)[:, :-1]
        loss = tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(token_ids[:, 1:], logits, from_logits=True)
        )
    weights = ours.named_weights()
    found = dict(zip(weights, tape.gradient(loss, [each.value for each in weights.values()]), strict=True))
    theirs_by_name = {name: each.grad.numpy() for name, each in theirs.model.named_parameters()}
    pairs = [("decoder/token_embedding/table", theirs_by_name["embed_tokens.weight"])]
    for i in range(3):
        block, layer = f"decoder/block_{i}", f"layers.{i}"
        experts = f"{layer}.mlp.experts"
        pairs += [
            (f"{block}/attention/sinks", theirs_by_name[f"{layer}.self_attn.sinks"]),
            (f"{block}/attention/output/kernel", theirs_by_name[f"{layer}.self_attn.o_proj.weight"].T),
            (f"{block}/mlp/router/kernel", theirs_by_name[f"{layer}.mlp.router.weight"].T),
            (f"{block}/mlp/up_kernel", theirs_by_name[f"{experts}.gate_up_proj"].swapaxes(1, 2)),
            (f"{block}/mlp/up_bias", theirs_by_name[f"{experts}.gate_up_proj_bias"]),
            (f"{block}/mlp/down_kernel", theirs_by_name[f"{experts}.down_proj"].swapaxes(1, 2)),
            (f"{block}/mlp/down_bias", theirs_by_name[f"{experts}.down_proj_bias"]),
            (f"{block}/mlp_norm/scale", theirs_by_name[f"{layer}.post_attention_layernorm.weight"]),
        ]
    for name, expected in pairs:
        gradient = tf.convert_to_tensor(found[name]).numpy()
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(
            gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name
        )


def test_mxfp4_numbers_are_those_of_transformers(rng):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = rng.integers(0, 256, (3, 5, 2, 16)).astype(np.uint8)
    scales = rng.integers(0, 252, (3, 5, 2)).astype(np.uint8)
    expected = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32)
    # transformers turns [experts, out, in] about.
    expected = expected.numpy().swapaxes(1, 2)
    np.testing.assert_array_equal(decode(blocks, scales).astype(np.float32), expected)


def test_mxfp4_by_the_specification():
    """All sixteen codes of the table of E2M1, at a scale of 2."""
    codes = np.arange(16, dtype=np.uint8)
    block = (codes[0::2] | codes[1::2] << 4).reshape(1, 1, 1, 8).repeat(2, axis=3)
    block[..., :8] = codes[0::2] | codes[1::2] << 4
    block[..., 8:] = 0
    numbers = decode(block, np.full((1, 1, 1), 128, np.uint8)).astype(np.float32)[0, 0]
    magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    np.testing.assert_array_equal(numbers[:16], 2 * np.concatenate([magnitudes, -magnitudes]))
    nan = decode(block, np.full((1, 1, 1), 255, np.uint8))
    assert np.isnan(nan.astype(np.float32)).all()


def test_a_packed_checkpoint_is_read(rng, tmp_path):
    """The experts of the published files: blocks and scales in place of kernels."""
    theirs = tiny_model("gpt_oss/base", num_hidden_layers=2, hidden_size=32, intermediate_size=64)
    theirs.save_pretrained(tmp_path)
    tensors, plain = load_file(tmp_path / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, width, rows = tensors.pop(name).shape
        blocks = rng.integers(0, 256, (experts, rows, width // 32, 16)).astype(np.uint8)
        scales = rng.integers(122, 126, blocks.shape[:3]).astype(np.uint8)
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
        plain[name] = torch.tensor(decode(blocks, scales).astype(np.float32).swapaxes(1, 2).copy())
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs.load_state_dict(plain, strict=False)
    ours = tfgpt.CausalLM.from_pretrained(tmp_path)
    token_ids = rng.integers(1, 53, (2, 20))
    expected = logits_of(theirs, token_ids)
    np.testing.assert_allclose(ours(token_ids), expected, rtol=0, atol=4e-6 * np.abs(expected).max())
    ours.save_pretrained(tmp_path / "floats")
    assert "quantization_config" not in json.loads((tmp_path / "floats" / "config.json").read_text())
    np.testing.assert_array_equal(logits_of(load_theirs(tmp_path / "floats"), token_ids), expected)


def test_blocks_of_a_wrong_dtype_are_refused(fixtures_directory, tmp_path):
    source = fixtures_directory / "gpt_oss" / "others"
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.experts.down_proj"
    tensors[name] = tensors[name].astype(np.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    with pytest.raises(tfgpt.InputError, match=f"tensor '{name}' has dtype int8"):
        tfgpt.CausalLM.from_pretrained(tmp_path)


def test_bfloat16_is_within_its_rounding(fixtures_directory, rng):
    """No further from float32 than transformers' own bfloat16 is, twice over."""
    source = fixtures_directory / "gpt_oss" / "others"
    token_ids = rng.integers(1, 53, (2, 20))
    exact = logits_of(load_theirs(source), token_ids)
    theirs = np.abs(logits_of(load_theirs(source).to(torch.bfloat16), token_ids) - exact)
    model = tfgpt.CausalLM.from_pretrained(source, dtype="bfloat16")
    logits = model(token_ids).numpy()
    assert logits.dtype == ml_dtypes.bfloat16
    ours = np.abs(logits.astype(np.float32) - exact)
    # The median token's: one at the border between two experts may go to either.
    assert np.median(ours.mean(axis=-1)) < 2 * np.median(theirs.mean(axis=-1))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_fit_generate_and_keras_round_trip(fixtures_directory, tmp_path, policy, jit):
    model = tfgpt.CausalLM.from_pretrained(fixtures_directory / "gpt_oss" / "others", dtype=policy)
    x = np.random.default_rng(0).integers(1, 53, (4, 12))
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=jit)
    losses = model.fit(x, x, epochs=3, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())
    assert len(model.generate([[1, 2, 3]])[0].token_ids) > 0
