"""Recorded answers say what the whole ones say; greedy tokens are judged only where Keras has decided."""

import numpy as np
import pytest
from tfgpt_export.agreement import measure_agreement
from tfgpt_export.greedy import GreedyReference, choose_prompts, compare_greedy, num_prompts
from tfgpt_export.recorded import record_answer, record_text
from tfgpt_export.reference import Answer, Case
from tfgpt_export.reference_file import (
    RecordedReference,
    SignSource,
    read_reference,
    write_reference,
)


def logits_of(vocabulary, scale=3.0, noise=0.0):
    """A model made of a table: logits of a token depend on the token alone."""
    table = np.random.default_rng(0).normal(size=(vocabulary, vocabulary)) * scale
    table += noise * np.random.default_rng(1).normal(size=table.shape)
    return lambda token_ids, training=False: table[token_ids].astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("vocabulary", [5, 300])
def test_recorded_text_measures_what_whole_logits_do(rng, noise, vocabulary):
    keras, other = logits_of(vocabulary), logits_of(vocabulary, noise=noise)
    text = rng.integers(0, vocabulary, (4, 60))
    whole, kept = measure_agreement(keras, other, text), record_text(keras, text).agreement(other)
    for exact in ("positions", "top1_agreement", "decided_disagreement"):
        assert getattr(kept, exact) == getattr(whole, exact)
    assert kept.perplexity_change == pytest.approx(whole.perplexity_change, abs=1e-9)
    # Tokens taken together say less: never more than the whole divergence, and here most of it.
    assert -1e-7 <= kept.kl_divergence <= whole.kl_divergence + 1e-7
    assert kept.kl_divergence >= 0.5 * whole.kl_divergence - 1e-7
    assert kept.max_logit_difference <= whole.max_logit_difference


def answer_of(rng, rows=2, slots=6, heads=3, width=8, vocabulary=50):
    mask = np.ones((rows, slots), np.int64)
    mask[1, :2] = 0
    case = Case("a case", rng.integers(0, vocabulary, (rows, slots)), mask, (3, slots))
    cache = {f"present.0.{kind}": rng.normal(size=(rows, heads, slots, width)) for kind in ("key", "value")}
    return Answer(case, {**cache, "logits": rng.normal(size=(rows, slots, vocabulary)) * 10})


def test_a_difference_anywhere_in_a_row_is_seen_and_padding_is_not(rng):
    whole = answer_of(rng)
    kept = record_answer(whole, SignSource().of)
    assert kept.names == whole.names
    for name, tensor in whole.tensors.items():
        assert kept.difference(name, tensor) < 1e-6
        assert kept.shape_difference(name, tensor) is None
        assert "Keras gives 2 rows of 6 tokens" in kept.shape_difference(name, tensor[:1])
        wrong = tensor.copy()
        wrong[0, ..., -1, 3] += 1.0  # one number of the last head or token
        assert kept.difference(name, wrong) > 1e-3  # ten times the tolerance of float32
    padded = whole.tensors["present.0.key"].copy()
    padded[1, :, :2] = np.nan
    assert kept.difference("present.0.key", padded) < 1e-6
    broken = whole.tensors["logits"].copy()
    broken[0, 0, 0] = np.nan
    assert not kept.difference("logits", broken) <= 1.0


def greedy_of(rng):
    prompts = [[1], [2, 3], [4, 5, 6]]
    tokens = rng.integers(0, 50, (3, 4)).astype(np.int32)
    return GreedyReference(
        prompts, tokens, np.full((3, 4), 2.0, np.float32), np.full((3, 4), 9.0, np.float32)
    )


def test_the_file_gives_back_what_was_written(rng, tmp_path):
    keras = logits_of(50)
    reference = RecordedReference(
        num_layers=1,
        vocabulary_size=50,
        context_length=64,
        text_is_given=True,
        answers=[record_answer(answer_of(rng), SignSource().of)],
        text=record_text(keras, rng.integers(0, 50, (3, 20))),
        greedy=greedy_of(rng),
        measured={"int8": {"kl_divergence": 0.1, "perplexity_change": -0.2, "greedy": 0.3}},
    )
    write_reference(reference, tmp_path / "reference.npz")
    found = read_reference(tmp_path / "reference.npz")
    assert found.measured == reference.measured and found.text_is_given is True
    assert found.greedy.prompts == reference.greedy.prompts
    assert found.answers[0].case.ends == (3, 6)
    for name, sums in reference.answers[0].sums.items():
        np.testing.assert_array_equal(found.answers[0].sums[name], sums)
        np.testing.assert_array_equal(found.answers[0].signs[name], reference.answers[0].signs[name])
    assert found.agreement(keras).kl_divergence < 1e-7


def test_a_tie_is_no_difference_and_a_decision_is(rng):
    reference = greedy_of(rng)
    assert compare_greedy("fp32", reference, reference.token_ids, None)["first_divergence"] == [0, 0, 0, 0, 3]
    other = reference.token_ids.copy()
    other[1, 2] += 1
    entry = compare_greedy("fp32", reference, other, None)
    assert entry["failures"] == [
        f"fp32: greedy token 2 after a prompt of 2 is {other[1, 2]}, Keras chooses {other[1, 2] - 1} and "
        "prefers it by 2"
    ]
    assert entry["first_divergence"] == [0, 0, 1, 0, 2] and entry["chosen_by_keras"] == 10
    reference.margins[1, 2] = 5e-4  # within 1e-4 of logits of size 9
    other[1, 3] += 7  # after another token the text is another
    entry = compare_greedy("fp32", reference, other, None)
    assert entry["failures"] == [] and entry["ties"] == 1


def test_the_share_of_decided_tokens_that_differ_is_limited(rng):
    reference = greedy_of(rng)
    other = reference.token_ids.copy()
    other[0, 0] += 1  # of 1 + 4 + 4 tokens that are compared
    assert compare_greedy("int8", reference, other, 0.12)["failures"] == []
    [failure] = compare_greedy("int8", reference, other, 0.11)["failures"]
    assert "11.11% of its decided tokens differ, expected at most 11.00%" in failure
    [failure] = compare_greedy("int8", reference, other[:, :3], 0.5)["failures"]
    assert failure == "int8: [3, 3] greedy tokens, expected [3, 4]"


def test_prompts_are_pieces_of_the_text():
    text = np.arange(4 * 48).reshape(4, 48)
    prompts = choose_prompts(text, 100, context_length=64)
    assert len(prompts) == 100 and {len(prompt) for prompt in prompts} == set(range(1, 13))
    assert all(prompt == list(range(prompt[0], prompt[0] + len(prompt))) for prompt in prompts)
    assert (
        choose_prompts(text[:, :2], 9, context_length=2)
        == [[0], [1], [48], [49], [96], [97], [144], [145]][:8]
    )


def test_large_models_are_asked_less():
    assert num_prompts(10_000) == 256
    assert 100 < num_prompts(124_000_000) < 256
    assert num_prompts(6_000_000_000) == 16
