"""One export of the recorded GPT-2, shared by the tests of this folder."""

import shutil

import pytest


def copy_model(source, target):
    """A model directory without the recorded answers beside it."""
    target.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, target / name)
    return target


@pytest.fixture(scope="session")
def exportable_directory(fixtures_directory):
    """The recorded GPT-2 of 11 layers whose heads are 8 wide; read only."""
    return fixtures_directory / "gpt2" / "heads_of_8"


@pytest.fixture
def model_directory(exportable_directory, tmp_path):
    """A copy of it that a test may damage."""
    return copy_model(exportable_directory, tmp_path / "model")


@pytest.fixture(scope="session")
def exported(exportable_directory, tmp_path_factory):
    """The `Artifact` of the recorded 11-layer GPT-2, in all precisions and as SavedModel; read only."""
    from tfgpt_export import export

    folder = tmp_path_factory.mktemp("exported")
    model = copy_model(exportable_directory, folder / "model")
    return export(model, folder / "export", ("fp32", "fp16", "int8", "int4"), keep_stages=True)


@pytest.fixture(scope="session")
def recorded(exportable_directory):
    """What transformers gave for the recorded GPT-2: name -> array."""
    import numpy as np

    with np.load(exportable_directory / "expected.npz", allow_pickle=False) as file:
        return dict(file)
