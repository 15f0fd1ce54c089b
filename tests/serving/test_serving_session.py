"""Sessions over hand-made graphs, against the same network in NumPy, which computes every text as a whole."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import tfgpt.serving.shared_cache as shared_cache
from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.padding import left_pad
from tfgpt.serving import Session

PROMPTS = [[5, 17, 80, 3], [44], list(range(20, 41)), [9, 9]]
GREEDY = GenerationOptions(max_new_tokens=12)


@pytest.fixture(params=[True, False], ids=["shared", "growing"])
def session(request, tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    return Session.open(tiny.save(directory, shared_cache=request.param))


def last_logits(decoder, prompts, then=(), capacity=48):
    """Logits after the prompts, and after each of the further tokens (the same for every row)."""
    found = [decoder.prefill(*left_pad(prompts), capacity).copy()]
    for token_id in then:
        found.append(decoder.step(np.full(len(prompts), token_id)).copy())
    return np.stack(found, axis=1)  # [rows, steps, vocabulary]


def expected_logits(tiny, prompts, then=()):
    return np.stack([tiny.logits([*prompt, *then])[len(prompt) - 1 :] for prompt in prompts])


def test_logits_of_every_step_equal_numpy(session, tiny):
    then = [7, 60, 2, 2, 31]
    for prompts in ([PROMPTS[0]], [PROMPTS[2]], PROMPTS[:2], PROMPTS):
        found = last_logits(session.decoder, prompts, then)
        # float32 against float64 over two layers; logits are of size 10.
        np.testing.assert_allclose(found, expected_logits(tiny, prompts, then), atol=2e-5, rtol=0)


def test_greedy_tokens_equal_numpy_alone_and_in_a_batch(session, tiny):
    expected = [tiny.greedy(prompt, 12) for prompt in PROMPTS]
    assert [item.token_ids for item in session.generate(PROMPTS, GREEDY)] == expected
    assert [session.generate(prompt, GREEDY)[0].token_ids for prompt in PROMPTS] == expected


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sampled_tokens_of_a_batch_equal_those_alone(session, seed):
    options = GenerationOptions(
        max_new_tokens=20, temperature=0.9, top_k=30, top_p=0.95, repetition_penalty=1.1, seed=seed
    )
    together = session.generate(PROMPTS, options)
    assert together == [session.generate(prompt, options)[0] for prompt in PROMPTS]
    assert together == session.generate(PROMPTS, options)


def test_rows_that_end_early_leave_the_others_as_they_are(session, tiny):
    texts = [tiny.greedy(prompt, 12) for prompt in PROMPTS]
    # One row ends with its second token, another with its fifth.
    ends = (texts[0][1], texts[2][4])
    expected = []
    for text in texts:
        places = [place for place, token_id in enumerate(text) if token_id in ends]
        expected.append(text[: places[0] + 1] if places else text)
    options = dataclasses.replace(GREEDY, end_of_text_ids=ends)
    assert [item.token_ids for item in session.generate(PROMPTS, options)] == expected
    assert len({len(text) for text in expected}) > 2


def test_a_row_may_fill_its_context_while_padded(session, tiny):
    # The longer row takes 21 columns, so the other one's 47 new tokens end in column 68 of a context of 48.
    results = session.generate([PROMPTS[2], [44]], GenerationOptions(max_new_tokens=100))
    assert [len(item.token_ids) for item in results] == [27, 47]
    assert [item.token_ids for item in results] == [tiny.greedy(PROMPTS[2], 27), tiny.greedy([44], 47)]
    assert [item.finish_reason for item in results] == ["length", "length"]


def test_graph_kinds_are_told_apart(exported, tiny, tmp_path):
    assert type(Session.open(exported).decoder).__name__ == "SharedCacheDecoder"
    growing = Session.open(tiny.save(tmp_path, shared_cache=False))
    assert type(growing.decoder).__name__ == "GrowingCacheDecoder"


def test_a_shared_cache_is_written_in_place_and_bound_once(exported):
    decoder = Session.open(exported).decoder
    decoder.prefill(*left_pad([[1, 2, 3]]), 40)
    caches = list(decoder._caches)
    addresses = [cache.ctypes.data for cache in caches]
    decoder.step(np.array([4]))
    step = decoder._step
    for token_id in range(5, 12):
        decoder.step(np.array([token_id]))
    assert decoder._step is step
    decoder.prefill(*left_pad([[6, 2]]), 40)
    assert [cache.ctypes.data for cache in decoder._caches] == addresses
    # The new prompt took the first two columns; the others are still the first one's.
    assert all(np.abs(cache[0, :, :11]).min(axis=(0, 2)).all() for cache in caches)
    assert all((cache[0, :, 11:] == 0).all() for cache in caches)


def test_a_cache_grows_past_what_was_announced(session, tiny):
    then = [3, 1, 4, 1, 5, 9, 2, 6] * 4
    if hasattr(session.decoder, "_capacity"):
        shared_step, shared_cache._CAPACITY_STEP = shared_cache._CAPACITY_STEP, 4
    try:
        found = last_logits(session.decoder, PROMPTS[:2], then, capacity=4)
    finally:
        if hasattr(session.decoder, "_capacity"):
            shared_cache._CAPACITY_STEP = shared_step
            assert session.decoder._capacity == 64 >= 4 + len(then)
    np.testing.assert_allclose(found, expected_logits(tiny, PROMPTS[:2], then), atol=2e-5, rtol=0)


@pytest.mark.parametrize("chunk", [1, 4, 7])
def test_prompts_in_chunks_give_the_same_logits(session, tiny, monkeypatch, chunk):
    monkeypatch.setattr(shared_cache, "LARGEST_CHUNK", chunk)
    monkeypatch.setattr("tfgpt.serving.growing_cache.LARGEST_CHUNK", chunk)
    found = last_logits(session.decoder, PROMPTS, [8])
    np.testing.assert_allclose(found, expected_logits(tiny, PROMPTS, [8]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("worth", [-1000, 1000], ids=["row by row", "together"])
def test_both_ways_to_prefill_a_batch_are_equal(exported, tiny, monkeypatch, worth):
    monkeypatch.setattr(shared_cache, "TOKENS_WORTH_ONE_RUN", worth)
    decoder = Session.open(exported).decoder
    runs = []
    run = type(decoder)._run
    monkeypatch.setattr(
        type(decoder), "_run", lambda self, rows, *rest: runs.append(rows) or run(self, rows, *rest)
    )
    found = last_logits(decoder, PROMPTS, [8, 1])
    assert len(runs) == (4 if worth < 0 else 1)
    np.testing.assert_allclose(found, expected_logits(tiny, PROMPTS, [8, 1]), atol=2e-5, rtol=0)


def test_a_damaged_cache_does_not_reach_the_next_prompt(exported, tiny, monkeypatch):
    monkeypatch.setattr(shared_cache, "TOKENS_WORTH_ONE_RUN", -1000)
    decoder = Session.open(exported).decoder
    decoder.prefill(*left_pad(PROMPTS), 48)
    for cache in decoder._caches:
        cache[:] = np.nan
    found = last_logits(decoder, PROMPTS, [8])
    np.testing.assert_allclose(found, expected_logits(tiny, PROMPTS, [8]), atol=2e-5, rtol=0)


def test_eleven_layers_keep_their_caches_apart(tiny_gpt, tmp_path):
    # In alphabetical order layer 10 would stand before layer 2.
    deep = tiny_gpt(num_layers=11, seed=3)
    decoder = Session.open(deep.save(tmp_path)).decoder
    found = last_logits(decoder, PROMPTS[:2], [8, 1])
    np.testing.assert_allclose(found, expected_logits(deep, PROMPTS[:2], [8, 1]), atol=1e-4, rtol=0)


def test_half_precision(tiny, tmp_path):
    tiny.save(tmp_path, "model_fp16.onnx", dtype=np.float16)
    session = Session.open(tmp_path, precision="fp16")
    found = last_logits(session.decoder, PROMPTS[:2], [8])
    assert found.dtype == np.float16
    # Eleven bits of mantissa, logits of size 10, sums over 96 terms.
    np.testing.assert_allclose(found, expected_logits(tiny, PROMPTS[:2], [8]), atol=0.1, rtol=0)
    assert session.generate([5, 17], GREEDY)[0].token_ids == tiny.greedy([5, 17], 12)


def test_text_in_text_out_with_the_export_s_own_settings(tiny, tmp_path):
    from tfgpt.tokenizers.character import CharacterTokenizer

    directory = tiny.save(tmp_path)
    characters = "".join(map(chr, range(32, 32 + 90)))
    tokenizer = CharacterTokenizer.train([characters])
    tokenizer.save_pretrained(directory)
    prompt = "Hello"
    text = tiny.greedy(tokenizer.encode(prompt), 20)
    settings = {"eos_token_id": int(text[9]), "max_new_tokens": 15}
    (directory / "generation_config.json").write_text(json.dumps(settings))
    session = Session.open(directory)
    assert session.default_options == GenerationOptions(max_new_tokens=15, end_of_text_ids=(text[9],))
    seen = []
    (result,) = session.generate(prompt, on_token=lambda *event: seen.append(event))
    length = text.index(text[9]) + 1
    assert result.token_ids == text[:length] and result.finish_reason == "stop"
    assert result.text == tokenizer.decode(text[: length - 1]) == "".join(piece for _, _, piece in seen)
    # The end-of-text id of the export also holds for options that leave it open.
    assert session.generate(prompt, GenerationOptions(max_new_tokens=20)) == [result]


def test_a_call_from_within_a_call_is_refused_where_it_would_wait_for_itself(exported):
    session = Session.open(exported, engine=False)
    with pytest.raises(InputError, match="found a call of generate from on_token"):
        session.generate([[1, 2]], on_token=lambda *event: session.generate([[1]]))
    assert session.generate([[1, 2]])[0].token_ids


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("make", [lambda text: text, lambda text: [text]], ids=["one", "list"])
def test_bytes_are_neither_text_nor_ids(exported, kind, make):
    with pytest.raises(InputError, match=rf"found {kind.__name__} for prompt"):
        Session.open(exported).generate(make(kind(b"Hello")))


def test_neither_tensorflow_nor_keras_nor_torch_is_loaded(exported):
    program = f"""
import sys
from tfgpt.serving import Session
result = Session.open({str(exported)!r}).generate([[1, 2, 3]])
assert len(result[0].token_ids) == 45, result
heavy = {{"tensorflow", "keras", "keras_hub", "torch", "jax", "transformers", "onnx", "tf2onnx"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("damage", "precision", "message"),
    [
        (lambda d: None, "fp33", "found precision 'fp33'; did you mean 'fp32'"),
        (lambda d: None, "int8", r"found fp32 in .*onnx, expected int8 \(model_quantized.onnx\)"),
        (lambda d: (d / "onnx/model.onnx").unlink(), "fp32", "found no onnx/.*tfgpt export"),
        (lambda d: (d / "config.json").unlink(), "fp32", r"config\.json is missing"),
        (lambda d: (d / "config.json").write_text("{"), "fp32", "is not readable JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "fp32", "holds a list"),
        (lambda d: (d / "config.json").write_text("{}"), "fp32", "found no context length.*n_positions"),
        (lambda d: (d / "config.json").write_text('{"n_ctx": "x"}'), "fp32", "found n_ctx='x'"),
        (
            lambda d: (d / "config.json").write_text('{"n_ctx": 48, "vocab_size": 98}'),
            "fp32",
            "found a graph with 97 tokens .*expected 98",
        ),
        (
            lambda d: (d / "onnx/model.onnx").write_bytes(b"no graph"),
            "fp32",
            "found a graph that onnxruntime",
        ),
        (lambda d: truncate(d / "onnx/model.onnx"), "fp32", "found a graph that onnxruntime cannot load"),
        (
            lambda d: (d / "generation_config.json").write_text('{"max_new_tokens": -1}'),
            "fp32",
            "found max_new_tokens=-1",
        ),
    ],
)
def test_a_broken_export_is_one_clear_line(tiny, tmp_path, damage, precision, message):
    directory = tiny.save(tmp_path)
    damage(directory)
    with pytest.raises(InputError, match=message) as caught:
        Session.open(directory, precision=precision)
    assert "\n" not in str(caught.value)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


def test_other_graphs_and_directories_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match=r"found no directory .*nowhere"):
        Session.open(tmp_path / "nowhere")
    import onnx

    directory = tiny.save(tmp_path)
    model = onnx.load(directory / "onnx/model.onnx")
    model.graph.input[2].name = "positions"
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "position_ids":
                node.input[place] = "positions"
    onnx.save_model(model, directory / "onnx/model.onnx")
    with pytest.raises(InputError, match="missing: position_ids; unknown: positions"):
        Session.open(directory)


def test_a_tokenizer_of_another_model_is_refused(tiny, tmp_path):
    from tfgpt.tokenizers.character import CharacterTokenizer

    directory = tiny.save(tmp_path)
    CharacterTokenizer.train(["".join(map(chr, range(32, 300)))]).save_pretrained(directory)
    with pytest.raises(InputError, match=r"found a tokenizer with .* tokens .*expected at most the 97"):
        Session.open(directory)


def test_the_context_comes_from_genai_config_when_config_has_none(tiny, tmp_path):
    directory = tiny.save(tmp_path, config={"eos_token_id": 3})
    (directory / "genai_config.json").write_text(json.dumps({"model": {"context_length": 20}}))
    session = Session.open(directory)
    assert session.context_length == 20
    assert session.default_options.end_of_text_ids == (3,)
