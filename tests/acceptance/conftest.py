"""Sample images and models for the commands."""

import pytest

from dermbatch.phantoms.samples import write_samples
from tests.integration.named_models import write_named


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
    return write_named(tmp_path_factory.mktemp("small_models"))
