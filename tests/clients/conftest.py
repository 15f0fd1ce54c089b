"""What the tests of the clients share: one export of a model of 12 layers, and the clients' own interpreters.

Each client runs in an environment of its own, which `python benchmarks/peers.py make NAME` makes. A test says
which by `pytest.mark.client(NAME)`, and is skipped where that is not there, before any export is made for it.
Programs that run in them stand in `programs/`; they print one JSON object.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import peers

PROGRAMS = Path(__file__).resolve().parent / "programs"
# The tokenizer learns from it and the prompts are parts of it.
TEXT = Path(__file__).resolve().parent / "text.txt"
PRECISIONS = ("fp32", "fp16", "int8", "int4")
NUM_NEW_TOKENS = 24
PROMPTS = {40: 12, 80: 7, 120: 1, 200: 29}  # where they start among the text's tokens, and how many they are
STEPS = 120
# Logits. What the clients sum in other orders and then round to 8 bits moves this model's logits by 0.03.
MARGIN = 2.0
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skips a test without its client, with the line that makes it."""
    for mark in item.iter_markers("client"):
        try:
            peers.check_finished(*mark.args)
        except SystemExit as missing:
            pytest.skip(str(missing))


@pytest.fixture(scope="session")
def client_tokenizer():
    """A byte-level BPE of 320 tokens."""
    from tfgpt.tokenizers.byte_pair import BytePairTokenizer

    return BytePairTokenizer.train([TEXT.read_text(encoding="utf-8")], vocabulary_size=320)


@pytest.fixture(scope="session")
def client_model(client_tokenizer, tmp_path_factory):
    """A GPT-2 directory: 12 layers of 4 heads of 16, context 128, its tokenizer and a chat template."""
    import keras

    from tfgpt.config import ModelConfig
    from tfgpt.models.causal_lm import CausalLM

    folder, tokenizer = tmp_path_factory.mktemp("clients") / "model", client_tokenizer
    end = tokenizer.end_of_text_id
    config = ModelConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        context_length=128,
        num_layers=12,
        num_heads=4,
        hidden_dim=64,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    keras.utils.set_random_seed(7)
    model = CausalLM(config)
    _learn_by_heart(model, tokenizer.encode(TEXT.read_text(encoding="utf-8")))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder, config.context_length)
    settings = folder / "tokenizer_config.json"
    values = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**values, "chat_template": CHAT_TEMPLATE}), encoding="utf-8")
    return folder


def _learn_by_heart(model, ids: list[int]) -> None:
    """Trains until the model goes on from every prompt as the text does, and would hear of nothing else.

    Clients that sum in other orders, or round activations to 8 bits after it, then choose the same tokens on
    every processor. With random weights two tokens are nearly as probable somewhere, and a processor decides.
    """
    import keras
    import numpy as np

    width = max(PROMPTS.values()) + NUM_NEW_TOKENS
    passages = np.array([ids[start : start + width + 1] for start in PROMPTS])
    model.compile(keras.optimizers.Adam(3e-3, global_clipnorm=1.0), jit_compile=False)
    batches = np.tile(passages, (STEPS, 1))
    model.fit(batches[:, :-1], batches[:, 1:], batch_size=len(passages), shuffle=False, verbose=0)
    for length, passage in zip(PROMPTS.values(), passages, strict=True):
        logits = np.asarray(model(passage[None, :-1]))[0, length - 1 :]
        assert logits.argmax(axis=-1).tolist() == passage[length:].tolist()
        second, first = np.sort(logits, axis=-1)[:, -2:].T
        assert (first - second).min() > MARGIN


@pytest.fixture(scope="session")
def client_export(client_model):
    """The export directory of `client_model` in all precisions, with its SavedModel; read only."""
    from tfgpt_export import export

    output = client_model.parent / "export"
    export(client_model, output, precisions=PRECISIONS)
    return output


@pytest.fixture(scope="session")
def export_in_two_files(client_model):
    """The export as larger models are written: every graph with its weights beside it."""
    from tfgpt_export import export, weights

    output = client_model.parent / "export_in_two_files"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "SINGLE_FILE_BYTES", 0)
        export(client_model, output, precisions=PRECISIONS, saved_model=False, verify=False)
    return output


@pytest.fixture(scope="session", params=PRECISIONS)
def precision(request):
    """Each precision of the export, by name."""
    return request.param


@pytest.fixture(scope="session")
def graph_file(precision):
    """The file of that precision within `onnx/`."""
    from tfgpt.serving.export_directory import FILE_OF_PRECISION

    return FILE_OF_PRECISION[precision]


@pytest.fixture(scope="session")
def client_prompts(client_model):
    """Token ids of prompts of 12, 7, 1 and 29 tokens."""
    from tfgpt.tokenizers.loading import load_tokenizer

    ids = load_tokenizer(client_model).encode(TEXT.read_text(encoding="utf-8"))
    return [ids[start : start + length] for start, length in PROMPTS.items()]


@pytest.fixture(scope="session")
def keras_model(client_model):
    """The Keras model of `client_model`."""
    from tfgpt.models.causal_lm import CausalLM

    return CausalLM.from_pretrained(client_model)


@pytest.fixture(scope="session")
def keras_tokens(keras_model, client_prompts):
    """Keras's `NUM_NEW_TOKENS` greedy tokens after each prompt, alone and without padding."""
    from tfgpt.generation.options import GenerationOptions

    options = GenerationOptions(max_new_tokens=NUM_NEW_TOKENS, end_of_text_ids=())
    return [list(keras_model.generate(prompt, options)[0].token_ids) for prompt in client_prompts]


@pytest.fixture(scope="session")
def expected_tokens(precision, client_export, client_prompts, keras_tokens):
    """What every client must choose: Keras's tokens in fp32, else what this project's own session chooses."""
    if precision == "fp32":
        return keras_tokens
    from tfgpt.generation.options import GenerationOptions
    from tfgpt.serving import Session

    options = GenerationOptions(max_new_tokens=NUM_NEW_TOKENS, end_of_text_ids=())
    session = Session.open(client_export, precision, num_threads=1)
    return [list(session.generate(prompt, options)[0].token_ids) for prompt in client_prompts]


@pytest.fixture(scope="session")
def request_file(client_prompts, tmp_path_factory):
    """The prompts and the number of new tokens, as the programs read them."""
    path = tmp_path_factory.mktemp("request") / "request.json"
    path.write_text(json.dumps({"prompts": client_prompts, "num_new_tokens": NUM_NEW_TOKENS}))
    return path


@pytest.fixture(scope="session")
def in_client():
    """Runs a program of `programs/` in a client's environment and returns the object that it printed.

    `in_client("genai", "genai_greedy.py", export_dir, ...)` passes the arguments on as strings.
    """

    def run(environment: str, program: str, *arguments) -> dict:
        return run_program([str(peers.python(environment)), str(PROGRAMS / program), *map(str, arguments)])

    return run


@pytest.fixture(scope="session")
def in_node(tmp_path_factory):
    """Runs a program of `programs/` (or a path) with Node in `directory` and returns what it printed.

    Programs find their packages in the node_modules beside them, so they run as copies.
    """
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(peers.node_folder() / "node_modules")

    def run(program: str | Path, *arguments, directory: Path | None = None) -> str:
        if isinstance(program, Path):
            shutil.copyfile(program, folder / program.name)
        command = ["node", str(folder / Path(program).name), *map(str, arguments)]
        return output_of(command, directory=directory)

    return run


def run_program(command: list[str], timeout: int = 300) -> dict:
    """The JSON object on the last line of what a command prints; a failing one fails the test."""
    return json.loads(output_of(command, timeout).strip().splitlines()[-1])


def output_of(command: list[str], timeout: int = 300, directory: Path | None = None) -> str:
    """What a command prints, run in `directory`; a failing one fails the test."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=clean, cwd=directory, encoding="utf-8"
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-4000:]}"
    return done.stdout
