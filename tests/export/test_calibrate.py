"""Calibrated rounding: what it minimises, the moments it is given, and that the export uses it."""

import numpy as np
import pytest
from tfgpt_export import calibrate
from tfgpt_export.blocks import BlockFormat, dequantize_blocks, quantize_blocks, searched
from tfgpt_export.calibrate import Calibration, calibrated, second_moments

FORM = BlockFormat(4, 32)


@pytest.fixture
def correlated(rng):
    """weight [24, 96], inputs [500, 96] whose numbers hang together, as a model's do."""
    mixing = rng.standard_normal((12, 96)).astype(np.float32)
    inputs = rng.standard_normal((500, 12)).astype(np.float32) @ mixing
    return rng.standard_normal((24, 96)).astype(np.float32), inputs + 0.3 * rng.standard_normal((500, 96))


def error_of_products(packed, scales, weight, inputs):
    rounded = dequantize_blocks(packed, scales, FORM, weight.shape[1])
    return np.linalg.norm(inputs @ (rounded - weight).T) / np.linalg.norm(inputs @ weight.T)


def test_products_change_less_than_by_rounding_to_the_nearest(correlated):
    weight, inputs = correlated
    moments = inputs.T @ inputs / len(inputs)
    plain = error_of_products(*quantize_blocks(weight, FORM, searched), weight, inputs)
    assert error_of_products(*calibrated(weight, moments, FORM), weight, inputs) < 0.5 * plain


def test_with_independent_inputs_it_is_rounding_to_the_nearest(rng):
    weight = rng.standard_normal((5, 64)).astype(np.float32)
    packed, scales = calibrated(weight, np.eye(64, dtype=np.float32), FORM)
    wanted, wanted_scales = quantize_blocks(weight, FORM, searched)
    np.testing.assert_array_equal(scales, wanted_scales)
    # The search settled its numbers before its last scale; here they are the nearest for that scale.
    assert (packed == wanted).mean() > 0.95


def test_a_last_block_that_is_not_full_and_inputs_that_are_always_zero(rng):
    weight = rng.standard_normal((3, 40)).astype(np.float32)
    packed, scales = calibrated(weight, np.zeros((40, 40), np.float32), FORM)
    assert packed.shape == (3, 2, 16) and scales.shape == (3, 2)
    assert np.isfinite(scales).all()
    assert np.abs(dequantize_blocks(packed, scales, FORM, 40) - weight).max() < 0.5


@pytest.fixture(scope="module")
def model():
    import tfgpt

    sizes = {"vocabulary_size": 61, "context_length": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 32}
    return tfgpt.CausalLM(tfgpt.ModelConfig(**sizes, initializer_range=0.3), dtype="float32")


def test_moments_are_of_what_each_product_reads(model):
    text = np.random.default_rng(0).integers(0, 61, (3, 20))
    moments = second_moments(model, text)
    widths = {name: len(each) for name, each in moments.items()}
    assert sorted(set(widths.values())) == [32, 128] and len(widths) == 2 * 4 + 1
    table = "decoder/token_embedding/table"
    hidden = np.asarray(model.decoder(text)[0]).reshape(-1, 32)  # what the tied head reads
    np.testing.assert_allclose(moments[table], hidden.T @ hidden / 60, rtol=0, atol=1e-4)


def test_a_group_at_a_time_gives_the_same_moments(model, monkeypatch):
    text = np.random.default_rng(0).integers(0, 61, (2, 20))
    whole = second_moments(model, text)
    widths = {name: len(each) for name, each in whole.items()}
    monkeypatch.setattr(calibrate, "HELD_BYTES", 4 * 128**2 + 1)
    in_turn = Calibration(model, text, widths)
    for name, moments in whole.items():
        np.testing.assert_array_equal(in_turn.moments(name), moments)
        assert len(in_turn._held) < len(whole)


def test_the_export_rounds_by_the_text(tmp_path, model):
    from tfgpt_export import export

    model.save_pretrained(tmp_path / "model")
    text = np.random.default_rng(1).integers(0, 61, (8, 32))
    options = {"precisions": ("int4",), "saved_model": False}
    plain = export(tmp_path / "model", tmp_path / "plain", **options)
    other = export(tmp_path / "model", tmp_path / "other", calibration_tokens=text, **options)
    [of_plain, of_other] = [
        next(entry for entry in each.verification if entry["kind"] == "rounded") for each in (plain, other)
    ]
    # Its file is right as well, and other: the weights moved further, so that the products move less.
    assert of_other["largest_change_of_a_weight"] > of_plain["largest_change_of_a_weight"]
