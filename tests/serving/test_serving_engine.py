"""The engine over a hand-made graph, against the same network in NumPy, which computes texts as a whole."""

import dataclasses
import shutil
import threading

import numpy as np
import pytest

import tfgpt.serving.engine as engine_module
import tfgpt.serving.export_directory as export_directory
import tfgpt.serving.session as session_module
from tfgpt.errors import InputError
from tfgpt.generation.options import GenerationOptions
from tfgpt.serving import Session
from tfgpt.serving.engine_graph import load_engine_graph

PROMPTS = [[5, 17, 80, 3], [44], list(range(20, 41)), [9, 9], [1, 2]]
GREEDY = GenerationOptions(max_new_tokens=12, end_of_text_ids=())


def save_with_engine(tiny, directory):
    """An export directory of hand-made graphs with the engine's beside them."""
    import onnx
    from tfgpt_export.engine_graph import engine_graph

    tiny.save(directory)
    model = onnx.load(directory / "onnx" / "model.onnx")
    onnx.save_model(engine_graph(model), directory / "onnx" / "engine.onnx")
    return directory


@pytest.fixture(scope="module")
def directory(tiny, tmp_path_factory):
    return save_with_engine(tiny, tmp_path_factory.mktemp("engine"))


@pytest.fixture
def session(directory):
    session = Session.open(directory)
    assert session.engine is not None and session.decoder is None
    return session


def finish(engine):
    while not engine.idle:
        engine.step()


def test_greedy_tokens_equal_numpy_alone_and_in_a_batch(session, tiny):
    expected = [tiny.greedy(prompt, 12) for prompt in PROMPTS]
    assert [item.token_ids for item in session.generate(PROMPTS, GREEDY)] == expected
    assert [session.generate(prompt, GREEDY)[0].token_ids for prompt in PROMPTS] == expected


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_rows_that_start_and_end_at_other_times_change_nothing(session, monkeypatch, chunk):
    """Prompts in chunks beside rows that decode, rows that are given up to the next request, idle rows."""
    random = np.random.default_rng(chunk)
    options = [
        dataclasses.replace(
            GREEDY,
            max_new_tokens=int(random.integers(1, 20)),
            temperature=float(random.choice([0.0, 0.8])),
            seed=number,
            speculate=int(random.choice([0, 4])),
        )
        for number in range(20)
    ]
    prompts = [random.integers(0, 97, random.integers(1, 26)).tolist() for _ in options]
    alone = [session.generate(prompt, each)[0] for prompt, each in zip(prompts, options, strict=True)]
    monkeypatch.setattr(engine_module, "LARGEST_CHUNK", chunk)
    session.engine.most_rows = 5
    requests = []
    for prompt, each in zip(prompts, options, strict=True):
        requests += session.submit([prompt], each)
        for _ in range(random.integers(0, 4)):
            session.engine.step()
    finish(session.engine)
    assert [request.row.generation() for request in requests] == alone


@pytest.mark.parametrize("speculate", [0, 4])
def test_numbers_of_a_row_are_the_same_bit_by_bit_whoever_is_beside_it(session, monkeypatch, speculate):
    """Alone, and among rows that come and go, of which some guess; prompts are cut at places of their own."""
    monkeypatch.setattr(engine_module, "LARGEST_CHUNK", 8)
    random = np.random.default_rng(2)
    asked = dataclasses.replace(
        GREEDY, max_new_tokens=9, speculate=speculate, logprobs=True, prompt_logprobs=True
    )
    prompts = [random.integers(0, 97, length).tolist() for length in (1, 3, 8, 9, 17, 24, 2, 30)]
    alone = [session.generate(prompt, asked)[0] for prompt in prompts]
    others = dataclasses.replace(GREEDY, speculate=3)
    requests = []
    for prompt in prompts:
        session.submit([random.integers(0, 97, random.integers(1, 20)).tolist()], others)
        requests += session.submit([prompt], asked)
        session.engine.step()
    finish(session.engine)
    assert [request.row.generation() for request in requests] == alone


def test_a_chunk_that_does_not_fit_waits(session, monkeypatch):
    monkeypatch.setattr(engine_module, "LARGEST_CHUNK", 8)
    prompts = [[5], list(range(10)), list(range(20, 27)), [1, 2, 3]]
    session.submit(prompts[:1], GREEDY)
    session.engine.step()
    runs = fed(session.engine, monkeypatch)
    session.submit(prompts[1:], GREEDY)
    read = []
    for _ in range(3):
        session.engine.step()
        feeds = [feed for _, part in runs for feed in part if feed.start < len(prompts[feed.row])]
        read.append([(feed.row, len(feed.token_ids)) for feed in feeds])
        runs.clear()
    # The first one goes on whatever the row that decodes takes; others when there is room, whole.
    assert read == [[(1, 8)], [(1, 2), (3, 3)], [(2, 7)]]


def test_a_prompt_does_not_wait_for_the_probabilities_of_another(session, monkeypatch):
    monkeypatch.setattr(session.engine, "_prompt_rows", 4)
    scored = dataclasses.replace(GREEDY, prompt_logprobs=True)
    session.submit([list(range(20)), list(range(5))], scored)
    session.submit([[1, 2]], GREEDY)
    runs = fed(session.engine, monkeypatch)
    session.engine.step()
    [(_, feeds)] = runs
    assert [(feed.row, len(feed.token_ids)) for feed in feeds] == [(0, 4), (2, 2)]


def test_a_step_mixes_prompts_and_rows_that_decode(session, tiny):
    requests = session.submit([PROMPTS[0]], GREEDY)
    for _ in range(3):
        session.engine.step()
    requests += session.submit(PROMPTS[2:], GREEDY)
    before = session.engine.num_runs
    session.engine.step()
    assert session.engine.num_runs == before + 2  # all prompts in one, as attention has it
    assert [request.row.num_new for request in requests] == [4, 1, 1, 1]
    finish(session.engine)
    for request, prompt in zip(requests, [PROMPTS[0], *PROMPTS[2:]], strict=True):
        assert request.row.generation().token_ids == tiny.greedy(prompt, 12)


def test_probabilities_of_prompt_and_text_equal_numpy(session, tiny):
    options = dataclasses.replace(GREEDY, logprobs=True, prompt_logprobs=True, top_logprobs=3)
    for prompt, found in zip(PROMPTS, session.generate(PROMPTS, options), strict=True):
        logits = tiny.logits([*prompt, *found.token_ids])
        scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        text = [*prompt, *found.token_ids]
        wanted = [scores[place, token_id] for place, token_id in enumerate(text[1:])]
        assert found.prompt_logprobs[0] is None and len(found.prompt_logprobs) == len(prompt)
        np.testing.assert_allclose([*found.prompt_logprobs[1:], *found.logprobs], wanted, atol=2e-5, rtol=0)
        tops = [*found.prompt_top_logprobs[1:], *found.top_logprobs]
        assert found.prompt_top_logprobs[0] is None and len(tops) == len(text) - 1
        for place, top in enumerate(tops):
            assert [token_id for token_id, _ in top] == np.argsort(-scores[place])[:3].tolist()
        # Clients find out whether a token was the greedy one by comparing these two floats.
        assert all(score == top[0][1] for score, top in zip(found.logprobs, found.top_logprobs, strict=True))


def test_probabilities_of_a_prompt_that_is_read_in_chunks(session, monkeypatch):
    options = dataclasses.replace(GREEDY, prompt_logprobs=True, top_logprobs=2)
    whole = session.generate(PROMPTS, options)
    monkeypatch.setattr(session.engine, "_prompt_rows", 4)
    for found, wanted in zip(session.generate(PROMPTS, options), whole, strict=True):
        assert found.token_ids == wanted.token_ids
        # Attention adds up in another order.
        np.testing.assert_allclose(found.prompt_logprobs[1:], wanted.prompt_logprobs[1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_guessing_changes_no_token(session, temperature):
    """Hundreds of prompts that repeat themselves; short alphabets make the texts do so, too."""
    random = np.random.default_rng(5)
    prompts = [
        np.tile(random.integers(0, 97, random.integers(1, 5)), 6)[: random.integers(1, 20)].tolist()
        for _ in range(300)
    ]
    options = GenerationOptions(
        max_new_tokens=28,
        temperature=temperature,
        end_of_text_ids=(3,),
        seed=tuple(range(300)),
        logprobs=True,
    )
    runs = []
    found = []
    for speculate in (0, 6):
        before = session.engine.num_runs
        found.append(session.generate(prompts, dataclasses.replace(options, speculate=speculate)))
        runs.append(session.engine.num_runs - before)
    for plain, guessed in zip(*found, strict=True):
        assert guessed.token_ids == plain.token_ids and guessed.finish_reason == plain.finish_reason
        np.testing.assert_allclose(guessed.logprobs, plain.logprobs, atol=1e-5, rtol=0)
    if temperature == 0:
        assert runs[1] < 0.8 * runs[0]


def test_a_row_may_fill_its_context_with_guesses(session):
    options = GenerationOptions(max_new_tokens=100, end_of_text_ids=(), speculate=20)
    results = session.generate([PROMPTS[2], [44]], options)
    assert [len(item.token_ids) for item in results] == [27, 47]
    assert [item.finish_reason for item in results] == ["length", "length"]


def test_a_cancelled_request_gives_its_row_to_the_next(session, tiny):
    session.engine.most_rows = 1
    first, second = session.submit(PROMPTS[:2], GREEDY)
    for _ in range(3):
        session.engine.step()
    assert first.row.num_new == 3 and second.row.num_new == 0
    first.cancel()
    finish(session.engine)
    assert first.done and first.row.num_new == 3
    assert second.row.generation().token_ids == tiny.greedy(PROMPTS[1], 12)


def test_a_request_without_finite_logits_fails_alone(tiny_gpt, tmp_path):
    damaged = tiny_gpt()
    damaged.weights["wpe"][30] = np.nan
    session = Session.open(save_with_engine(damaged, tmp_path))
    good, bad = session.submit([PROMPTS[0], list(range(28))], GREEDY)
    finish(session.engine)
    assert good.row.generation().token_ids == damaged.greedy(PROMPTS[0], 12)
    assert isinstance(bad.failure, FloatingPointError) and bad.done
    with pytest.raises(FloatingPointError, match="prompt 0 at new token 3"):
        session.generate([list(range(28))], GREEDY)
    assert session.generate([PROMPTS[0]], GREEDY)[0].token_ids == good.row.generation().token_ids


def test_a_callback_that_raises_leaves_nothing_behind(session, tiny):
    def interrupted(row, token_id, piece):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.generate(PROMPTS, GREEDY, on_token=interrupted)
    assert session.engine.idle
    assert session.generate([PROMPTS[0]], GREEDY)[0].token_ids == tiny.greedy(PROMPTS[0], 12)


def test_threads_share_the_steps_and_each_gets_its_own_tokens(session, tiny):
    expected = [tiny.greedy(prompt, 12) for prompt in PROMPTS]
    found, told = [None] * 10, [[] for _ in range(10)]
    barrier = threading.Barrier(10)

    def work(number):
        barrier.wait()
        threads = set()

        def on_token(row, token_id, piece):
            threads.add(threading.get_ident())
            told[number].append(token_id)

        [found[number]] = session.generate([PROMPTS[number % 5]], GREEDY, on_token)
        assert threads == {threading.get_ident()}

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for number in range(10):
        assert found[number].token_ids == expected[number % 5] == tuple(told[number])
    # One after the other they would have been 120.
    assert session.engine.num_runs < 100


def test_an_onnxruntime_without_query_lengths_takes_the_common_graph(directory, tiny, monkeypatch):
    def refused(*_):
        raise InputError("found a graph that onnxruntime cannot load")

    monkeypatch.setattr(session_module, "load_engine_graph", refused)
    with pytest.raises(InputError, match="cannot load"):
        Session.open(directory)
    monkeypatch.setattr(session_module, "engine_runs_here", lambda: False)
    session = Session.open(directory)
    assert session.engine is None
    assert session.generate([PROMPTS[0]], GREEDY)[0].token_ids == tiny.greedy(PROMPTS[0], 12)
    with pytest.raises(InputError, match="engine"):
        session.submit([PROMPTS[0]], GREEDY)
    with pytest.raises(InputError, match="prompt_logprobs"):
        session.generate([PROMPTS[0]], dataclasses.replace(GREEDY, prompt_logprobs=True))


def test_this_onnxruntime_is_asked_what_it_can():
    assert session_module.engine_runs_here()


def test_a_graph_that_is_none_of_the_engine(directory, tiny, tmp_path):
    tiny.save(tmp_path)
    (tmp_path / "onnx" / "model.onnx").rename(tmp_path / "onnx" / "engine.onnx")
    tiny.save(tmp_path)
    with pytest.raises(InputError, match="expected those of the engine"):
        Session.open(tmp_path)
    (tmp_path / "onnx" / "engine.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot load"):
        Session.open(tmp_path)


# --- a graph of their own for long prompts ---


LONG = 8


@pytest.fixture
def with_prompts(directory, monkeypatch):
    """A session whose prompts of at least 8 tokens have a graph of their own: the same network once more."""
    monkeypatch.setattr(engine_module, "LONG_PROMPT", LONG)
    loaded = []

    def load():
        loaded.append(load_engine_graph(directory / "onnx" / "engine.onnx"))
        return loaded[-1]

    session = Session.open(directory)
    session.engine._load_prompts = load
    return session, loaded


def fed(engine, monkeypatch):
    """The runs to come: (the graph, the feeds)."""
    runs, run = [], engine._cache.run

    def spy(feeds, graph, least_chunk):
        runs.append((graph, feeds))
        return run(feeds, graph, least_chunk)

    monkeypatch.setattr(engine._cache, "run", spy)
    return runs


def test_the_graph_for_long_prompts_is_loaded_by_the_first_of_them(with_prompts, tiny):
    session, loaded = with_prompts
    assert session.generate([1] * (LONG - 1), GREEDY)[0].token_ids == tiny.greedy([1] * (LONG - 1), 12)
    assert not loaded
    for prompt in ([1] * LONG, PROMPTS[2]):
        assert session.generate(prompt, GREEDY)[0].token_ids == tiny.greedy(prompt, 12)
    assert len(loaded) == 1


@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_what_a_token_is_computed_by_depends_on_its_row_alone(with_prompts, tiny, monkeypatch, chunk):
    """However chunks end: all of a long prompt by its graph, all else by the other."""
    session, loaded = with_prompts
    monkeypatch.setattr(engine_module, "LARGEST_CHUNK", chunk)
    runs = fed(session.engine, monkeypatch)
    options = dataclasses.replace(GREEDY, speculate=3)
    prompts = [*PROMPTS, list(range(30, 30 + LONG)), [7] * 25]
    results = session.generate(prompts, options)
    assert [result.token_ids for result in results] == [tiny.greedy(prompt, 12) for prompt in prompts]
    long_rows = {row for row, prompt in enumerate(prompts) if len(prompt) >= LONG}
    for graph, feeds in runs:
        for feed in feeds:
            in_prompt = feed.start < len(prompts[feed.row])
            assert (graph is loaded[0]) == (in_prompt and feed.row in long_rows)
            assert not in_prompt or feed.start + len(feed.token_ids) <= len(prompts[feed.row])
    assert sum(graph is loaded[0] for graph, _ in runs) >= 1


def test_no_guess_follows_the_last_token_of_a_prompt(with_prompts, tiny, monkeypatch):
    """Where a chunk leaves one token of a prompt, guesses behind it would be of the other graph."""
    session, loaded = with_prompts
    monkeypatch.setattr(engine_module, "LARGEST_CHUNK", 12)
    runs = fed(session.engine, monkeypatch)
    [result] = session.generate([7] * 13, dataclasses.replace(GREEDY, speculate=3))
    assert result.token_ids == tiny.greedy([7] * 13, 12)
    lengths = [len(feed.token_ids) for graph, feeds in runs for feed in feeds if graph is loaded[0]]
    assert lengths == [12, 1]


def test_rows_that_decode_go_on_beside_long_prompts(with_prompts, tiny):
    session, _ = with_prompts
    requests = session.submit([PROMPTS[0]], GREEDY)
    session.engine.step()
    requests += session.submit([PROMPTS[2]], GREEDY)
    before = session.engine.num_runs
    session.engine.step()
    assert session.engine.num_runs == before + 2
    assert [request.row.num_new for request in requests] == [2, 1]
    finish(session.engine)
    assert requests[1].row.generation().token_ids == tiny.greedy(PROMPTS[2], 12)


def test_what_loading_freed_is_given_back(directory, monkeypatch):
    monkeypatch.setattr(engine_module, "LONG_PROMPT", LONG)
    monkeypatch.setitem(export_directory.PROMPTS_OF_PRECISION, "fp32", "engine.onnx")
    given, give = [], session_module.give_back_memory
    monkeypatch.setattr(session_module, "give_back_memory", lambda: given.append(give()))
    session = Session.open(directory)
    session.generate([1, 2], GREEDY)
    assert len(given) == 1
    session.generate(PROMPTS[2], GREEDY)  # its graph is loaded now
    assert len(given) == 2


def test_a_damaged_or_foreign_graph_for_prompts(directory, tiny, tiny_gpt, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "LONG_PROMPT", LONG)
    monkeypatch.setitem(export_directory.PROMPTS_OF_PRECISION, "fp32", "prompts.onnx")
    copy = shutil.copytree(directory, tmp_path / "copy")
    (copy / "onnx/prompts.onnx").write_bytes(b"no graph")
    session = Session.open(copy)
    with pytest.warns(UserWarning, match=r"read the slower way: .*prompts\.onnx") as caught:
        for _ in range(2):
            assert session.generate(PROMPTS[2], GREEDY)[0].token_ids == tiny.greedy(PROMPTS[2], 12)
    assert len(caught) == 1
    assert Session.open(copy, prompt_graph=False).generate(PROMPTS[2], GREEDY)[0].token_ids
    other = save_with_engine(tiny_gpt(num_layers=1), tmp_path / "other")
    shutil.copy(other / "onnx/engine.onnx", copy / "onnx/prompts.onnx")
    with pytest.warns(UserWarning, match="whose cache or vocabulary is not that of the engine's graph"):
        Session.open(copy).generate(PROMPTS[2], GREEDY)


def test_an_error_of_long_prompts_fails_no_row_beside_them(with_prompts, tiny, monkeypatch):
    session, loaded = with_prompts
    session.generate(PROMPTS[2], GREEDY)  # which loads the graph
    run = session.engine._cache.run

    def broken(feeds, graph, least_chunk):
        if graph is loaded[0]:
            raise RuntimeError("bad allocation")
        return run(feeds, graph, least_chunk)

    monkeypatch.setattr(session.engine._cache, "run", broken)
    requests = session.submit([PROMPTS[0], PROMPTS[2]], GREEDY)
    finish(session.engine)
    assert requests[0].row.generation().token_ids == tiny.greedy(PROMPTS[0], 12)
    assert requests[0].failure is None and "bad allocation" in str(requests[1].failure)
    # Whoever makes the step: the error is told to those alone whose prompt it was.
    session.submit([PROMPTS[2]], GREEDY)
    assert session.generate(PROMPTS[0], GREEDY)[0].token_ids == tiny.greedy(PROMPTS[0], 12)
    with pytest.raises(RuntimeError, match="bad allocation"):
        session.generate(PROMPTS[2], GREEDY)
