"""Generation with a Keras model against the same model run over every text as a whole, without a cache."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.padding import left_pad

keras = pytest.importorskip("keras")

PROMPTS = [[5, 17, 80, 3], [44], list(range(20, 41)), [9, 9]]


@pytest.fixture(scope="module")
def model():
    import tfgpt

    keras.utils.set_random_seed(4)
    return tfgpt.CausalLM(
        tfgpt.ModelConfig(
            vocabulary_size=97,
            context_length=48,
            num_layers=2,
            num_heads=3,
            hidden_dim=24,
            initializer_range=0.5,
            dropout=0.5,
        )
    )


@pytest.fixture
def decoder(model):
    from tfgpt.generation.keras_decoder import KerasDecoder

    return KerasDecoder(model)


def whole_logits(model, token_ids):
    """[length] -> [length, vocabulary], without padding, cache or compilation."""
    return keras.ops.convert_to_numpy(model(np.array([token_ids], np.int32)))[0]


def greedy(model, prompt, count):
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(int(whole_logits(model, token_ids)[-1].argmax()))
    return tuple(token_ids[len(prompt) :])


def test_logits_of_every_step_equal_the_whole_text_s(model, decoder):
    then = [7, 60, 2, 31]
    for prompts in ([PROMPTS[0]], PROMPTS[:2], PROMPTS):
        logits = [decoder.prefill(*left_pad(prompts), 21 + len(then))]
        logits += [decoder.step(np.full(len(prompts), token_id)) for token_id in then]
        expected = np.stack([whole_logits(model, [*prompt, *then])[len(prompt) - 1 :] for prompt in prompts])
        # float32, logits of size 5.
        np.testing.assert_allclose(np.stack(logits, axis=1), expected, atol=1e-5, rtol=0)


def test_greedy_tokens_equal_alone_in_a_batch_and_without_a_cache(model):
    expected = [greedy(model, prompt, 10) for prompt in PROMPTS]
    options = GenerationOptions(max_new_tokens=10)
    assert [item.token_ids for item in model.generate(PROMPTS, options)] == expected
    assert [model.generate(prompt, options)[0].token_ids for prompt in PROMPTS] == expected
    assert len(set(expected)) == len(PROMPTS)


def test_sampled_tokens_of_a_batch_equal_those_alone(model):
    options = GenerationOptions(max_new_tokens=15, temperature=0.9, top_k=30, top_p=0.95, seed=3)
    together = model.generate(PROMPTS, options)
    assert together == [model.generate(prompt, options)[0] for prompt in PROMPTS]


def test_rows_that_end_early_leave_the_others_as_they_are(model):
    plain = [greedy(model, prompt, 10) for prompt in PROMPTS]
    ends = (plain[0][1], plain[2][4])
    expected = []
    for text in plain:
        places = [place for place, token_id in enumerate(text) if token_id in ends]
        expected.append(text[: places[0] + 1] if places else text)
    options = GenerationOptions(max_new_tokens=10, end_of_text_ids=ends)
    assert [item.token_ids for item in model.generate(PROMPTS, options)] == expected
    assert len({len(text) for text in expected}) > 1


def test_the_config_s_end_of_text_ends_a_row_without_a_tokenizer(model):
    import tfgpt

    plain = greedy(model, PROMPTS[0], 10)
    end = plain[4]
    ending = tfgpt.CausalLM(model.config.replace(eos_token_id=end))
    for variable, weight in zip(ending.trainable_variables, model.trainable_variables, strict=True):
        variable.assign(weight)
    [result] = ending.generate(PROMPTS[0], GenerationOptions(max_new_tokens=10))
    assert result.token_ids == plain[: plain.index(end) + 1] and result.finish_reason == "stop"
    [result] = ending.generate(PROMPTS[0], GenerationOptions(max_new_tokens=10, end_of_text_ids=()))
    assert result.token_ids == plain


def test_a_row_may_fill_its_context_while_padded(model):
    results = model.generate([PROMPTS[2], [44]], GenerationOptions(max_new_tokens=100))
    assert [item.token_ids for item in results] == [greedy(model, PROMPTS[2], 27), greedy(model, [44], 47)]


def test_nothing_is_traced_again(model):
    model.generate([[1, 2]], GenerationOptions(max_new_tokens=3))
    advance = model.__dict__["_generation_advance"]
    if not hasattr(advance, "experimental_get_tracing_count"):
        pytest.skip("counts traces of TensorFlow")
    model.generate(PROMPTS, GenerationOptions(max_new_tokens=30))
    assert advance.experimental_get_tracing_count() == 1
    assert model.__dict__["_generation_advance"] is advance


def test_changed_weights_are_seen(model):
    options = GenerationOptions(max_new_tokens=4)
    before = model.generate([[1, 2]], options)
    variable = model.trainable_variables[0]
    saved = keras.ops.convert_to_numpy(variable).copy()
    variable.assign(saved[::-1])
    try:
        changed = model.generate([[1, 2]], options)
        assert changed[0].token_ids == greedy(model, [1, 2], 4) != before[0].token_ids
    finally:
        variable.assign(saved)
    assert model.generate([[1, 2]], options) == before


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_half_precision_policies(policy):
    import tfgpt

    config = tfgpt.ModelConfig(
        vocabulary_size=31, context_length=16, num_layers=1, num_heads=2, hidden_dim=16, initializer_range=0.5
    )
    half = tfgpt.CausalLM(config, dtype=policy)
    results = half.generate([[1, 2, 3], [4]], GenerationOptions(max_new_tokens=5))
    assert [len(item.token_ids) for item in results] == [5, 5]


def test_greedy_tokens_equal_transformers(tmp_path):
    """A batch of left-padded prompts, on a GPT-2 that transformers made and wrote."""
    torch = pytest.importorskip("torch", reason="the live comparison needs the parity extra")
    transformers = pytest.importorskip("transformers")
    import tfgpt

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=97,
        n_positions=48,
        n_layer=3,
        n_head=3,
        n_embd=24,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    token_ids, mask = left_pad(PROMPTS)
    for penalty in (1.0, 1.3):
        expected = theirs.generate(
            torch.tensor(token_ids),
            attention_mask=torch.tensor(mask),
            do_sample=False,
            max_new_tokens=12,
            repetition_penalty=penalty,
            eos_token_id=96,
            pad_token_id=0,
        )[:, token_ids.shape[1] :]
        ours = tfgpt.CausalLM.from_pretrained(tmp_path).generate(
            PROMPTS,
            GenerationOptions(max_new_tokens=12, repetition_penalty=penalty, end_of_text_ids=(96,)),
        )
        for row, item in zip(expected.tolist(), ours, strict=True):
            assert tuple(row[: len(item.token_ids)]) == item.token_ids
            assert len(item.token_ids) == 12 or item.token_ids[-1] == 96


JAX_PROGRAM = """
import numpy as np, tfgpt, json, sys
from tfgpt.generation.keras_decoder import KerasDecoder
from tfgpt.generation.options import GenerationOptions
model = tfgpt.CausalLM.from_pretrained(sys.argv[1])
prompts, ends = json.loads(sys.argv[2]), json.loads(sys.argv[3])
options = GenerationOptions(max_new_tokens=10, end_of_text_ids=ends)
results = model.generate(prompts, options)
compilations = model.__dict__["_generation_advance"].compiled._cache_size()
model.generate([prompt[:1] for prompt in prompts], options)
again = model.__dict__["_generation_advance"].compiled._cache_size()
decoder = KerasDecoder(model)
decoder.prefill(np.ones((1, 2), int), np.ones((1, 2), int), 3)
try:
    for _ in range(70):
        decoder.step(np.array([1]))
except ValueError as error:
    assert str(error) == "found 65 columns, expected at most 64", error
else:
    raise AssertionError("wrote past the capacity")
print(json.dumps([[item.token_ids for item in results], compilations, again]))
"""


def test_the_same_tokens_on_jax(model, tmp_path):
    pytest.importorskip("jax", reason="the second backend needs the parity extra")
    import json

    model.save_pretrained(tmp_path / "model")
    plain = [greedy(model, prompt, 10) for prompt in PROMPTS]
    ends = [plain[0][1]]
    expected = [
        list(item.token_ids)
        for item in model.generate(PROMPTS, GenerationOptions(max_new_tokens=10, end_of_text_ids=ends))
    ]
    ran = subprocess.run(
        [sys.executable, "-c", JAX_PROGRAM, str(tmp_path / "model"), json.dumps(PROMPTS), json.dumps(ends)],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    tokens, compilations, again = json.loads(ran.stdout.splitlines()[-1])
    assert tokens == expected
    # Prefill and step; shorter prompts of the same batch size compile a prefill of their own length, 16.
    assert (compilations, again) == (2, 3)
