"""The SavedModel in a process with TensorFlow alone: logits, tokens and texts are those of Keras."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tfgpt_export.graph_generation import GraphGenerator
from tfgpt_export.graph_sampling import RowOptions, choose, uniform
from tfgpt_export.saved_model import write_saved_model

from tests.fixtures.tiny_models import DIRECTORY, TRAINED
from tfgpt.config import ModelConfig
from tfgpt.generation.options import GenerationOptions
from tfgpt.generation.samplers import Sampler
from tfgpt.generation.samplers import uniform as uniform_of_numpy
from tfgpt.models.causal_lm import CausalLM
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.graph import GraphTokenizer

CHILD = Path(__file__).with_name("saved_model_child.py")
PROMPT_LENGTHS = (5, 1, 9, 3)
DRAWN = (0.8, 20, 0.875)  # temperature, top_k, top_p
NEW_TOKENS = 10
# A GPT-2 with a tokenizer; tracing the families takes long, so the slow tests have them.
FAMILIES = ["texts", *(pytest.param(name, marks=pytest.mark.slow) for name in TRAINED)]
TEXTS = (" the words of the words", "it's 12\n\n  \u65e5\u672c\u8a9e \U0001f44d", "", "a")


def prompts(vocabulary_size):
    random = np.random.default_rng(3)
    return [random.integers(0, vocabulary_size, length).tolist() for length in PROMPT_LENGTHS]


def padded(rows):
    """Ids and mask [4, 12]: padded on the right, on the left, at both ends, and between the tokens."""
    token_ids, mask = np.full((len(rows), 12), 1), np.zeros((len(rows), 12), np.int64)
    for row, places in enumerate((slice(0, 5), slice(11, 12), slice(2, 11), [1, 4, 7])):
        token_ids[row, places], mask[row, places] = rows[row], 1
    return token_ids, mask


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train(["the words of the words"] * 3, 262)


@functools.cache
def recorded_model(name):
    return CausalLM.from_pretrained(DIRECTORY / name, dtype="float32")


def model_of_texts(tokenizer):
    config = ModelConfig(tokenizer.vocabulary_size, 64, 2, 2, 16, eos_token_id=tokenizer.end_of_text_id)
    model = CausalLM(config, dtype="float32")
    random = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(variable + random.normal(size=variable.shape) * 0.3)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tokenizer):
    return model_of_texts(tokenizer) if request.param == "texts" else recorded_model(request.param)


@pytest.fixture(scope="module")
def answer(model, tokenizer, tmp_path_factory):
    """What a process that can import TensorFlow alone finds: name -> array, as in saved_model_child.py."""
    folder = tmp_path_factory.mktemp("saved_model")
    fits = tokenizer.vocabulary_size == model.config.vocabulary_size
    write_saved_model(model, GraphTokenizer.from_tokenizer(tokenizer) if fits else None, folder / "model")
    token_ids, mask = padded(prompts(model.config.vocabulary_size))
    request = {"token_ids": token_ids, "mask": mask, "drawn": np.array(DRAWN), "texts": np.array(TEXTS)}
    np.savez(folder / "request.npz", **request, end=tokenizer.end_of_text_id)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(CHILD), str(folder)]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    stored = (folder / "model/variables/variables.data-00000-of-00001").stat().st_size
    return {**np.load(folder / "answer.npz", allow_pickle=False), "stored_bytes": stored}


def rows_of(array):
    """The tokens of each row, without padding."""
    return [tuple(row[row >= 0].tolist()) for row in array]


def test_logits(model, answer):
    token_ids, mask = padded(prompts(model.config.vocabulary_size))
    wanted = np.asarray(model(token_ids, mask=mask))
    # The same operators on the same numbers; a wrong mask shows at 1e-2.
    np.testing.assert_allclose(answer["logits"][mask == 1], wanted[mask == 1], rtol=0, atol=1e-5)


def test_weights_are_stored_once(model, answer):
    num_bytes = 4 * model.count_params()
    # Beside them the names of all objects.
    assert num_bytes <= answer["stored_bytes"] <= num_bytes + 50_000


def test_greedy_tokens_are_those_of_generate_wherever_the_padding_stands(model, answer):
    rows = prompts(model.config.vocabulary_size)
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, end_of_text_ids=())
    wanted = [result.token_ids for result in model.generate(rows, options)]
    assert rows_of(answer["greedy"]) == wanted
    assert [rows_of(answer[f"greedy_{row}"])[0] for row in range(len(rows))] == wanted


def test_seeds_draw_the_tokens_of_generate_whoever_is_in_the_batch(model, answer):
    rows = prompts(model.config.vocabulary_size)
    temperature, top_k, top_p = DRAWN
    options = GenerationOptions(
        max_new_tokens=NEW_TOKENS,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=tuple(range(len(rows))),
        end_of_text_ids=(),
    )
    wanted = [result.token_ids for result in model.generate(rows, options)]
    assert rows_of(answer["drawn"]) == rows_of(answer["drawn_again"]) == wanted
    assert [rows_of(answer[f"drawn_{row}"])[0] for row in range(len(rows))] == wanted
    assert rows_of(answer["other_seeds"]) != wanted


def test_an_end_of_text_ends_its_row_alone(answer):
    greedy, ended = answer["greedy"], rows_of(answer["ended"])
    end = greedy[0, 4]
    for tokens, found in zip(rows_of(greedy), ended, strict=True):
        assert found == (tokens[: tokens.index(end) + 1] if end in tokens else tokens)
    assert len(ended[0]) <= 5


@pytest.mark.parametrize("model", ["texts"], indirect=True)
def test_texts(model, tokenizer, answer):
    mask = answer["encoded_mask"].astype(bool)
    ids = [row[real].tolist() for row, real in zip(answer["encoded"], mask, strict=True)]
    assert ids == [tokenizer.encode(text) for text in TEXTS]
    assert answer["decoded"].tolist() == [text + "|" for text in TEXTS]
    for name, sampling in (("text", {}), ("drawn_text", {"temperature": 1.0, "seed": (0, 1, 2, 3)})):
        options = GenerationOptions(max_new_tokens=NEW_TOKENS, **sampling)
        results = model.generate(list(TEXTS), options, tokenizer=tokenizer)
        assert answer[name].tolist() == [result.text + "|" for result in results]


def test_numbers_drawn_are_those_of_numpy():
    seeds = [0, 1, 12345, 2**63 - 1, -2]
    found = tf.function(uniform)(tf.constant(seeds, tf.int64), tf.range(6, dtype=tf.int64)).numpy()
    wanted = [[uniform_of_numpy(seed % 2**64, position) for position in range(6)] for seed in seeds]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 100])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_choices_are_those_of_the_sampler(temperature, top_k, top_p):
    random = np.random.default_rng(0)
    logits = random.normal(size=(64, 30)).astype(np.float32) * 3
    logits[32:] = np.round(logits[32:])  # many ties
    seeds = np.arange(64)
    options = RowOptions(
        *(np.full(64, value, np.float32 if isinstance(value, float) else np.int64)
          for value in (9, float(temperature), top_k, float(top_p), 0, -1))
    )._replace(seed=seeds)  # fmt: skip
    options = RowOptions(*map(tf.constant, options))
    found = choose(tf.constant(logits), uniform(options.seed, tf.range(1, dtype=tf.int64))[:, 0], options)
    sampler = Sampler(GenerationOptions(temperature=temperature, top_k=top_k, top_p=float(np.float32(top_p))))
    wanted = [sampler(row, np.array([0]), int(seed), 0) for row, seed in zip(logits, seeds, strict=True)]
    assert found.numpy().tolist() == wanted


BAD = {
    "max_new_tokens of at least 1": {"max_new_tokens": 0},
    "temperature of at least 0": {"temperature": -1.0},
    "top_k of at least 0": {"top_k": -1},
    "top_p above 0 and at most 1": {"top_p": 0.0},
    "vocabulary of": {"token_ids": 61},
    "empty prompt without end_of_text_id": {"mask": 0},
    r"prompt of\] \[80\] \[tokens, expected at most\] \[79": {"length": 80},
}


@pytest.fixture(scope="module")
def generator():
    return tf.function(GraphGenerator(recorded_model("gpt3/base")), autograph=False)


@pytest.mark.parametrize("message", BAD)
def test_what_is_refused(generator, message):
    values = {"token_ids": 1, "mask": 1, "length": 4, **BAD[message]}
    defaults = {"max_new_tokens": 2, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    defaults = {**defaults, "end_of_text_id": -1, **BAD[message]}
    options = RowOptions(
        *(
            tf.constant([defaults[name]], tf.float32 if name in ("temperature", "top_p") else tf.int64)
            for name in RowOptions._fields
        )
    )
    shape = (1, values["length"])
    token_ids, mask = (tf.fill(shape, tf.constant(values[name], tf.int64)) for name in ("token_ids", "mask"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        generator(token_ids, mask, options)
    with pytest.raises(tf.errors.InvalidArgumentError, match="found ids of shape"):
        generator(token_ids, mask[:, 1:], options)
