"""What all tests share: quiet libraries, fixed seeds, the data directory, tiny models."""

import os
from pathlib import Path

# Read when TensorFlow and its libraries are imported, so set before any test module is.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What `tfgpt train` sets for its process. XLA reads it once, so a test that runs the command within this
# process would otherwise leave it to the processes of later tests, which would compile unlike this one.
os.environ.setdefault("XLA_FLAGS", "--xla_disable_hlo_passes=tree_reduction_rewriter")

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).resolve().parent / "fixtures"

# The same examples on every machine, and no deadline: the first example pays for imports and tracing.
hypothesis.settings.register_profile("tfgpt", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tfgpt")


# Their files share exports that take a minute, so each of these directories is one worker's.
SHARING = ("tests/clients/", "tests/export/")


# The controller of pytest-xdist has the hook, and only where it is installed.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Whole files for a worker, that the fixtures of a module are made once, and directories of `SHARING`.

    Not `--dist loadgroup` with marks: xdist 3.8 writes its groups where pytest 9.2 no longer reads them, and
    every test then goes to whichever worker is free.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.split("::", 1)[0]
            return next((folder for folder in SHARING if path.startswith(folder)), path)

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _seeds(request):
    """Every test starts from the same random state; Keras is seeded only where it is loaded already."""
    import sys

    np.random.seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def fixtures_directory():
    """tests/fixtures: small recorded models and the numbers that other implementations gave for them."""
    return FIXTURES


@pytest.fixture(scope="session")
def fixture_module():
    """Imports a script of tests/fixtures by its name."""
    import importlib

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FIXTURES)
        yield importlib.import_module


@pytest.fixture(scope="session")
def data_directory():
    """Real data beside the repository (or at TFGPT_DATA); a test that needs it is skipped without it."""
    path = Path(os.environ.get("TFGPT_DATA", ROOT / "../shared/data")).resolve()
    if not path.is_dir():
        pytest.skip(f"no data at {path}: set TFGPT_DATA")
    return path


@pytest.fixture(scope="session")
def gpt2_directory(fixtures_directory):
    """The recorded GPT-2 directory of 11 layers in the Hugging Face format; read only."""
    return fixtures_directory / "gpt2" / "base"


@pytest.fixture
def model_directory(gpt2_directory, tmp_path):
    """A copy of `gpt2_directory` that a test may damage."""
    import shutil

    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(gpt2_directory / name, directory / name)
    return directory


@pytest.fixture(scope="session")
def python():
    """Runs Python code in a fresh process and returns its standard output.

    `python(code, KERAS_BACKEND="jax")` sets environment variables; a failing process fails the test with
    the end of what it wrote.
    """
    import subprocess
    import sys

    def run(code: str, **environment: str) -> str:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "export")])
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": paths, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run
