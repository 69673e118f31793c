"""Sample images for the commands."""

import pytest

from dermbatch.phantoms import write_samples


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
