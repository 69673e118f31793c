"""The tiny models under the names of those that ship."""

import shutil

from dermbatch.settings import DEFAULT_MODELS
from tests.integration.digests import copy_with_digests
from tests.integration.tiny_models import write_repository


def write_named(folder):
    """A repository below a folder: the names of the default one, the tiny models' content, with digests."""
    write_repository(folder / "tiny")
    for name in (choice.name for choice in DEFAULT_MODELS.values()):
        tiny = f"{name.partition('_')[0]}_tiny"
        shutil.copytree(folder / "tiny" / tiny / "1", folder / "named" / name / "1")
        config = (folder / "tiny" / tiny / "config.pbtxt").read_text()
        (folder / "named" / name / "config.pbtxt").write_text(config.replace(f'"{tiny}"', f'"{name}"'))
    return copy_with_digests(folder / "named", folder / "models")
