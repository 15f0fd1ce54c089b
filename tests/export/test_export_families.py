"""Every family's graph, contract to greedy tokens, against the Keras model that it was exported from."""

import dataclasses
import json
from collections import Counter

import numpy as np
import onnxruntime
import pytest

LAYERS, CONTEXT, VOCABULARY = 3, 64, 61
PRECISIONS = ("fp32", "fp16", "int8", "int4")
SMALL = {
    "vocabulary_size": VOCABULARY,
    "context_length": CONTEXT,
    "num_layers": LAYERS,
    "hidden_dim": 32,
    "num_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
# Of every layer; a row below states what is otherwise. Biases and residual sums are the additions.
OPERATORS = {"MatMul": 4, "Add": 6, "LayerNormalization": 2, "Gelu": 1, "GroupQueryAttention": 1}
ROTARY = {"Split": 1, "RotaryEmbedding": 2}
# Of the mask.
ONCE = {"Shape": 3, "Cast": 2, "Sub": 2, "Expand": 2, "Squeeze": 1, "Concat": 1, "Mul": 1, "Unsqueeze": 1}
LEARNED = {"Gather": 2, "Add": 1}
TIED = {"MatMul": 1, "Transpose": 1}
FINAL_NORM = {"LayerNormalization": 1}


@dataclasses.dataclass(frozen=True)
class Row:
    """A published size made small, and the operators of its graph: for each layer, and those once in it."""

    family: str
    size: str
    changes: dict
    layer: dict
    once: tuple[dict, ...]


# Windows are shorter than the texts below. Rotated parts are those that attention's own operator would take
# (a multiple of 16 within one) and those that it would not.
ROWS = {
    "gpt1": Row("gpt1", "117m", {}, {}, (LEARNED, TIED)),
    "gpt2": Row(
        "gpt2", "124m", {"num_heads": 4, "scale_by_inverse_layer": True}, {}, (LEARNED, TIED, FINAL_NORM)
    ),
    "gpt3": Row(
        "gpt3", "125m", {"num_heads": 3, "head_dim": 16, "window": 5}, {}, (LEARNED, TIED, FINAL_NORM)
    ),
    "gpt_neo": Row("gpt_neo", "125m", {"window": 5}, {"Add": 5}, (LEARNED, TIED, FINAL_NORM)),
    "gptj": Row(
        "gptj",
        "6b",
        {"num_heads": 4, "rotary_dim": 6},
        {"Add": 4, "LayerNormalization": 1, **ROTARY},
        ({"MatMul": 1, "Add": 1, "Gather": 1}, FINAL_NORM),
    ),
    "gpt_neox": Row("gpt_neox", "20b", {"rotary_dim": 4}, ROTARY, ({"MatMul": 1, "Gather": 1}, FINAL_NORM)),
    "pythia": Row(
        "gpt_neox", "pythia-160m", {"rotary_dim": 16}, ROTARY, ({"MatMul": 1, "Gather": 1}, FINAL_NORM)
    ),
    "gpt_neox, sequential and tied": Row(
        "gpt_neox",
        "pythia-160m",
        {"rotary_dim": 8, "residual": "pre_norm", "tie_embeddings": True, "activation": "relu"},
        {"Gelu": 0, "Relu": 1, **ROTARY},
        ({"Gather": 1}, TIED, FINAL_NORM),
    ),
}


@pytest.fixture(scope="module", params=list(ROWS))
def row(request):
    return ROWS[request.param]


def random_model(config):
    import tfgpt

    model = tfgpt.CausalLM(config, dtype="float32")
    generator = np.random.default_rng(0)
    for name, variable in model.named_weights().items():
        noise = generator.standard_normal(variable.shape).astype(np.float32)
        # Logits are of order 1, and every scale and bias matters.
        variable.assign(1 + 0.3 * noise if name.endswith("scale") else 0.2 * noise)
    return model


def config_of(row):
    from tfgpt.families.registry import family

    return family(row.family).config_of(row.size, **{**SMALL, **row.changes})


@pytest.fixture(scope="module")
def keras_model(row):
    return random_model(config_of(row))


@pytest.fixture(scope="module")
def artifact(row, keras_model, tmp_path_factory):
    from tfgpt_export import export

    folder = tmp_path_factory.mktemp("family")
    keras_model.save_pretrained(folder / "model")
    return export(folder / "model", folder / "export", PRECISIONS, saved_model=False, verify=False)


@pytest.fixture(scope="module")
def sessions(artifact):
    return {
        name: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for name, path in artifact.files.items()
    }


@pytest.fixture(scope="module")
def token_ids():
    return np.random.default_rng(1).integers(0, VOCABULARY, (3, 24))


def padded(side):
    """int64 [3, 24]: rows of 24, 15 and 6 tokens, padded at one side or after the third token."""
    mask = np.ones((3, 24), np.int64)
    for row, missing in ((1, 9), (2, 18)):
        start = {"left": 0, "middle": 3, "right": 24 - missing}[side]
        mask[row, start : start + missing] = 0
    return mask


def positions_of(mask):
    return np.maximum(np.cumsum(mask, axis=1) - 1, 0)


def in_pieces(session, token_ids, mask, ends, weights=None):
    """Logits [batch, length, vocabulary] of new tokens up to each of `ends`."""
    past = [each for each in session.get_inputs() if each.name.startswith("past")]
    dtype = np.float16 if past[0].type == "tensor(float16)" else np.float32
    cache = [np.zeros((len(token_ids), each.shape[1], 0, each.shape[3]), dtype) for each in past]
    parts, start = [], 0
    for end in ends:
        feeds = {
            "input_ids": token_ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": positions_of(mask)[:, start:end],
        }
        feeds |= {each.name: value for each, value in zip(past, cache, strict=True)} | (weights or {})
        logits, *cache = session.run(None, feeds)
        parts.append(logits)
        start = end
    return np.concatenate(parts, axis=1)


def assert_close(found, wanted, mask=None):
    if mask is not None:
        found, wanted = found[mask == 1], wanted[mask == 1]
    # Of order 1 to 10; float32 sums in another order. Wrong masks and positions show at 1e-1.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_names_order_types_and_dimensions(artifact, sessions):
    config = artifact.config
    heads, width = config.num_key_value_heads, config.head_dim
    total = "past_sequence_length + sequence_length"
    pairs = [f"{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]
    tokens = [
        ("input_ids", "tensor(int64)", ["batch_size", "sequence_length"]),
        ("attention_mask", "tensor(int64)", ["batch_size", total]),
        ("position_ids", "tensor(int64)", ["batch_size", "sequence_length"]),
    ]
    for precision, session in sessions.items():
        kind = "tensor(float16)" if precision == "fp16" else "tensor(float)"
        dims = ["batch_size", heads, "past_sequence_length", width]
        past = [(f"past_key_values.{pair}", kind, dims) for pair in pairs]
        present = [(f"present.{pair}", kind, ["batch_size", heads, total, width]) for pair in pairs]
        logits = ("logits", kind, ["batch_size", "sequence_length", VOCABULARY])
        assert [(each.name, each.type, each.shape) for each in session.get_inputs()] == [*tokens, *past]
        assert [(each.name, each.type, each.shape) for each in session.get_outputs()] == [logits, *present]


def test_one_operator_for_each_named_operation(row, artifact):
    expected = Counter(ONCE)
    for operators in (*row.once, *[OPERATORS | row.layer] * LAYERS):
        expected.update(operators)
    assert Counter(artifact.counts["fp32"]) == expected
    assert artifact.counts["fp16"] == artifact.counts["fp32"]
    assert sum(expected.values()) <= 16 * LAYERS + 40  # three more in a layer with rotary positions, too
    products = expected.pop("MatMul")
    # Products with their biases, that of the head included, are one operator: sums alone are left. A tied
    # table is stored by row as the products want it.
    expected["MatMulNBits"] = products
    expected["Add"] = 2 * LAYERS + (LEARNED in row.once)
    expected.pop("Transpose", None)
    # The width of 32 is a whole block: tokens are looked up in blocks as well.
    expected.update({"GatherBlockQuantized": 1, "Reshape": 1, "Gather": -1})
    for precision in ("int8", "int4"):
        assert Counter(artifact.counts[precision]) == +expected


@pytest.mark.parametrize(
    "ends", [(24,), range(1, 25), (1, 9, 10, 24)], ids=["at once", "token by token", "in chunks"]
)
def test_the_cache_gives_the_logits_of_keras(sessions, keras_model, token_ids, ends):
    first = token_ids[:1]
    found = in_pieces(sessions["fp32"], first, np.ones_like(first), ends)
    assert_close(found, np.asarray(keras_model(first)))


@pytest.mark.parametrize("side", ["left", "middle", "right"])
def test_padded_batches(sessions, keras_model, token_ids, side):
    mask = padded(side)
    wanted = np.asarray(keras_model(token_ids, mask=mask))
    for ends in ((24,), range(12, 25)):
        found = in_pieces(sessions["fp32"], token_ids, mask, ends)
        assert np.isfinite(found).all()
        assert_close(found, wanted, mask)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_row_depends_on_its_batch_mates(sessions, token_ids, precision):
    mask = padded("left")
    session, ends = sessions[precision], range(20, 25)
    together = in_pieces(session, token_ids, mask, ends)
    for row in range(3):
        one, real = slice(row, row + 1), mask[row] == 1
        others = np.where(np.arange(3)[:, None] == row, token_ids, (7 * token_ids + 3) % VOCABULARY)
        np.testing.assert_array_equal(in_pieces(session, others, mask, ends)[row, real], together[row, real])
        alone = in_pieces(session, token_ids[one], mask[one], ends)
        if precision == "int4":
            # onnxruntime's 4-bit kernel sums a single row in another order than one of several.
            np.testing.assert_allclose(alone[0, real], together[row, real], rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(alone[0, real], together[row, real])


def test_a_batch_whose_past_and_present_are_one_buffer(sessions, keras_model, token_ids):
    session, mask = sessions["fp32"], padded("left")
    binding, buffers = session.io_binding(), []
    for each in session.get_inputs()[3:]:
        # What an earlier text left there must not matter.
        content = np.full((3, each.shape[1], 40, each.shape[3]), 7, np.float32)
        buffers.append(onnxruntime.OrtValue.ortvalue_from_numpy(content))
        binding.bind_ortvalue_input(each.name, buffers[-1])
        binding.bind_ortvalue_output(each.name.replace("past_key_values", "present"), buffers[-1])
    parts, start = [], 0
    for end in range(18, 25):
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(token_ids[:, start:end]))
        binding.bind_cpu_input("attention_mask", np.ascontiguousarray(mask[:, :end]))
        binding.bind_cpu_input("position_ids", np.ascontiguousarray(positions_of(mask)[:, start:end]))
        binding.bind_output("logits")
        session.run_with_iobinding(binding)
        parts.append(binding.get_outputs()[-1].numpy())
        start = end
    wanted = np.asarray(keras_model(token_ids, mask=mask))
    assert_close(np.concatenate(parts, axis=1), wanted, mask)
    assert (buffers[0].numpy()[:, :, 24:] == 7).all()


def test_greedy_tokens_are_those_of_keras(artifact, keras_model, token_ids):
    from tfgpt.generation.options import GenerationOptions
    from tfgpt.serving import Session

    prompts = [token_ids[0, :24].tolist(), token_ids[1, :9].tolist(), token_ids[2, :1].tolist()]
    # To the end of every row's context: the slots, padding included, then are more than the context.
    # Without the penalty some of these random models repeat one token.
    options = GenerationOptions(max_new_tokens=CONTEXT - 1, repetition_penalty=3.0, end_of_text_ids=())
    found = [each.token_ids for each in Session.open(artifact.output).generate(prompts, options)]
    assert found == [each.token_ids for each in keras_model.generate(prompts, options)]
    assert [len(each) for each in found] == [CONTEXT - 24, CONTEXT - 9, CONTEXT - 1]
    assert min(len(set(each)) for each in found) > 9
    [alone] = Session.open(artifact.output).generate(prompts[1:2], options)
    assert alone.token_ids == found[1]
    for precision in PRECISIONS[1:]:
        rounded = Session.open(artifact.output, precision=precision).generate(prompts, options)
        assert [len(each.token_ids) for each in rounded] == [len(each) for each in found]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_rows_of_the_engine_start_and_end_by_themselves(artifact, keras_model, monkeypatch, precision):
    """Prompts in chunks beside rows that decode and guess: the tokens of each alone, and those of Keras."""
    import tfgpt.serving.engine as engine
    from tfgpt.generation.options import GenerationOptions
    from tfgpt.serving import Session

    generator = np.random.default_rng(2)
    prompts = [generator.integers(0, VOCABULARY, length).tolist() for length in (20, 1, 9, 14, 2, 30)]
    options = [
        GenerationOptions(
            max_new_tokens=number, repetition_penalty=penalty, end_of_text_ids=(), speculate=guesses
        )
        for number, penalty, guesses in (
            (30, 3.0, 0),
            (40, 1.0, 5),
            (5, 3.0, 0),
            (12, 1.0, 3),
            (25, 3.0, 2),
            (8, 3.0, 0),
        )
    ]
    session = Session.open(artifact.output, precision=precision)
    plain = [dataclasses.replace(each, speculate=0) for each in options]
    alone = [session.generate(*pair)[0].token_ids for pair in zip(prompts, plain, strict=True)]
    if precision == "fp32":
        pairs = zip(prompts, plain, strict=True)
        assert alone == [keras_model.generate([prompt], each)[0].token_ids for prompt, each in pairs]
    monkeypatch.setattr(engine, "LARGEST_CHUNK", 8)
    session.engine.most_rows = 4
    requests = []
    for pair in zip(prompts, options, strict=True):
        requests += session.submit([pair[0]], pair[1])
        session.engine.step()
        session.engine.step()
    while not session.engine.idle:
        session.engine.step()
    assert [request.row.generation().token_ids for request in requests] == alone


# From the configuration classes of the clients, which size the empty cache with them; they know no GPT-1 and
# no GPT-3.
CACHE_KEYS = {
    "gpt2": ("n_head", "n_layer", "n_embd"),
    "gptj": ("n_head", "n_layer", "n_embd"),
    "gpt_neo": ("num_heads", "num_layers", "hidden_size"),
    "gpt_neox": ("num_attention_heads", "num_hidden_layers", "hidden_size"),
}


def test_the_configs_beside_the_graph(artifact):
    config = artifact.config
    stated = json.loads((artifact.output / "config.json").read_text())
    keys = CACHE_KEYS[stated["model_type"]]
    assert [stated[key] for key in keys] == [
        config.num_heads,
        LAYERS,
        config.num_heads * config.head_dim,
    ]
    assert stated["vocab_size"] == VOCABULARY
    genai = json.loads((artifact.output / "genai_config.json").read_text())
    assert genai["model"]["context_length"] == genai["search"]["max_length"] == CONTEXT
    assert genai["model"]["eos_token_id"] == genai["model"]["pad_token_id"] == 0
    decoder = genai["model"]["decoder"]
    assert decoder["head_size"] == config.head_dim
    assert decoder["num_attention_heads"] == decoder["num_key_value_heads"] == config.num_heads
    assert (artifact.output / decoder["filename"]).is_file()


@pytest.mark.slow
def test_the_export_verifies_a_family_in_every_format(tmp_path):
    from tfgpt_export import export

    random_model(config_of(ROWS["gptj"])).save_pretrained(tmp_path / "model")
    found = export(tmp_path / "model", tmp_path / "export").verification
    lossless = {
        each["artifact"]: each["max_relative_difference"] for each in found if each["kind"] == "lossless"
    }
    assert set(lossless) == {"fp32", "saved_model"}
    assert max(lossless.values()) < 1e-5


@pytest.mark.parametrize("positions", ["learned", "rotary_split", "rotary_interleaved"])
def test_grouped_heads(token_ids, positions):
    """Without a directory, which of these families none can state: the weights are fed as inputs."""
    from tfgpt_export.convert import convert
    from tfgpt_export.trace import trace

    import tfgpt

    config = tfgpt.ModelConfig(
        **SMALL,
        head_dim=16,
        num_key_value_heads=1,
        positions=positions,
        attention_pattern=("local", "global"),
        window=5,
    )
    model = random_model(config)
    weights = {name: np.asarray(variable) for name, variable in model.named_weights().items()}
    session = onnxruntime.InferenceSession(convert(trace(config), config).SerializeToString())
    mask = padded("left")
    found = in_pieces(session, token_ids, mask, range(18, 25), weights)
    assert_close(found, np.asarray(model(token_ids, mask=mask)), mask)
