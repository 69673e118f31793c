"""Sample images and models for the commands."""

import shutil

import pytest

from dermbatch.models.repository import default_model_repository
from dermbatch.phantoms.samples import write_samples
from tests.integration.digests import copy_with_digests
from tests.integration.tiny_models import write_repository


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """A folder with a few sample images."""
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder / "images", 8, truth=folder / "truth")
    return folder / "images"


@pytest.fixture(scope="session")
def truth(samples):
    """The folder with the true masks of the sample images."""
    return samples.parent / "truth"


@pytest.fixture(scope="session")
def small_models(tmp_path_factory):
    """The tiny models under the names of those that ship, for tests of commands and processes, not of pictures.

    The stack is none the less whole; only what Triton computes takes milliseconds instead of half a second.
    """
    folder = tmp_path_factory.mktemp("small_models")
    write_repository(folder / "tiny")
    for model in default_model_repository().glob("*/config.pbtxt"):
        name = model.parent.name
        tiny = f"{name.partition('_')[0]}_tiny"
        shutil.copytree(folder / "tiny" / tiny / "1", folder / "named" / name / "1")
        config = (folder / "tiny" / tiny / "config.pbtxt").read_text()
        (folder / "named" / name / "config.pbtxt").write_text(config.replace(f'"{tiny}"', f'"{name}"'))
    return copy_with_digests(folder / "named", folder / "models")
