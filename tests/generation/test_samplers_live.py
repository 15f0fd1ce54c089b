"""The filters against transformers' own logits processors, on GPT-2's vocabulary and on small ones."""

import numpy as np
import pytest

from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.samplers import MinP, RepetitionPenalty, Temperature, TopK, TopP, filters_of

torch = pytest.importorskip("torch", reason="the live comparison needs the parity extra")
processors = pytest.importorskip("transformers.generation.logits_process")

SEEN = np.array([3, 1, 4, 1, 5, 9, 2, 6])


def random_logits(seed, vocabulary_size, scale):
    return (np.random.default_rng(seed).normal(size=vocabulary_size) * scale).astype(np.float32)


def theirs(processor, logits):
    # Some processors write into their input.
    scores = torch.tensor(logits[None])
    return processor(torch.tensor(SEEN[None]), scores)[0].numpy()


@pytest.mark.parametrize(("vocabulary_size", "scale"), [(50257, 4.0), (50257, 1.0), (50257, 0.05), (11, 2.0)])
@pytest.mark.parametrize(
    ("ours", "other"),
    [
        (RepetitionPenalty(1.3), lambda: processors.RepetitionPenaltyLogitsProcessor(1.3)),
        (RepetitionPenalty(0.7), lambda: processors.RepetitionPenaltyLogitsProcessor(0.7)),
        (Temperature(0.7), lambda: processors.TemperatureLogitsWarper(0.7)),
        (TopK(1), lambda: processors.TopKLogitsWarper(1)),
        (TopK(50), lambda: processors.TopKLogitsWarper(50)),
        (TopP(0.001), lambda: processors.TopPLogitsWarper(0.001)),
        (TopP(0.5), lambda: processors.TopPLogitsWarper(0.5)),
        (TopP(0.95), lambda: processors.TopPLogitsWarper(0.95)),
        (MinP(0.05), lambda: processors.MinPLogitsWarper(0.05)),
        (MinP(1.0), lambda: processors.MinPLogitsWarper(1.0)),
    ],
    ids=lambda item: repr(item) if not callable(item) or hasattr(item, "__dataclass_fields__") else "",
)
def test_one_filter_is_equal(ours, other, vocabulary_size, scale):
    for seed in range(3):
        logits = random_logits(seed, vocabulary_size, scale)
        expected = theirs(other(), logits)
        result = ours(logits, SEEN)
        # transformers adds up its 50,257 float32 probabilities from the smallest, rounding by 1e-6 or so:
        # only there may one token at the edge of a large nucleus differ.
        if isinstance(ours, TopP) and vocabulary_size > 100 and scale < 4:
            assert (np.isfinite(result) != np.isfinite(expected)).sum() <= 2
            both = np.isfinite(result) & np.isfinite(expected)
            np.testing.assert_array_equal(result[both], expected[both])
        else:
            np.testing.assert_array_equal(result, expected)


def test_ties_at_the_edge_of_top_k_are_all_kept_by_both():
    logits = np.array([1, 3, 3, 3, 0, 0, 0, 0, 0, 9], np.float32)
    np.testing.assert_array_equal(TopK(2)(logits, SEEN), theirs(processors.TopKLogitsWarper(2), logits))


@pytest.mark.parametrize("seed", range(5))
def test_the_whole_chain_is_in_transformers_order(seed):
    transformers = pytest.importorskip("transformers")
    settings = dict(temperature=0.6, top_k=40, top_p=0.8, min_p=0.03, repetition_penalty=1.5)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=50, n_positions=8, eos_token_id=0)
    )
    config = transformers.GenerationConfig(do_sample=True, **settings)
    config, _ = model._prepare_generation_config(config)
    model._prepare_special_tokens(config)
    chain = model._get_logits_processor(
        config,
        input_ids_seq_length=len(SEEN),
        logits_processor=processors.LogitsProcessorList(),
        device="cpu",
    )
    assert len(chain) == 5
    logits = random_logits(seed, 50, 2.0)
    expected = chain(torch.tensor(SEEN[None]), torch.tensor(logits[None]))[0].numpy()
    result = logits
    for keep in filters_of(GenerationOptions(**settings)):
        result = keep(result, SEEN)
    np.testing.assert_array_equal(result, expected)
