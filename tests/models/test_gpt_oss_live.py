"""What gpt-oss has beside the tests of every family: MXFP4 checkpoints, experts under XLA."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tfgpt
from tfgpt.checkpoints.mxfp4 import decode

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.fixtures.tiny_models import TINY_MODELS, randomize  # noqa: E402  (needs the two above)


def load_theirs(directory):
    return transformers.GptOssForCausalLM.from_pretrained(
        directory, attn_implementation="eager", experts_implementation="eager"
    )


def logits_of(model, token_ids):
    with torch.no_grad():
        return model(torch.tensor(token_ids)).logits.float().numpy()


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
    values = {**TINY_MODELS["gpt_oss/base"].values, "hidden_size": 32, "intermediate_size": 64}
    config = transformers.GptOssConfig(**{**values, "num_hidden_layers": 2}, attn_implementation="eager")
    theirs = transformers.GptOssForCausalLM(config)
    theirs.set_experts_implementation("eager")
    randomize(theirs, seed=0)
    theirs = theirs.eval().float()
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
    token_ids = rng.integers(1, 61, (2, 20))
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


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_fit_generate_and_keras_round_trip(fixtures_directory, tmp_path, policy, jit):
    model = tfgpt.CausalLM.from_pretrained(fixtures_directory / "gpt_oss" / "others", dtype=policy)
    x = np.random.default_rng(0).integers(1, 61, (4, 12))
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=jit)
    losses = model.fit(x, x, epochs=3, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())
    assert len(model.generate([[1, 2, 3]])[0].token_ids) > 0
