"""Where the default models lie: the Triton model repository shipped with Dermbatch."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import dermbatch
from dermbatch.errors import StackError

_ONNX = re.compile(
    r'^(?:[^#\n]*\s)?(?:backend\s*:\s*"onnxruntime"|platform\s*:\s*"onnxruntime_onnx")', re.MULTILINE
)

_VERSION = re.compile(r"[0-9]+\Z")

_SHOWN = re.compile(r'^(?!\s*#).*\bkey\s*:\s*"support_model"', re.MULTILINE)


def default_model_repository() -> Path:
    """The model repository of this installation.

    Returns:
        ``dermbatch/model_repository`` if installed from a wheel, ``model_repository`` beside the packages in a
        source checkout.

    Raises:
        StackError: If there is neither, or no model in it.
    """
    package = Path(dermbatch.__file__).resolve().parent
    places = (package / "model_repository", package.parent / "model_repository")
    for place in places:
        if any(place.glob("*/config.pbtxt")):
            return place
    raise StackError(f"no models found in {' or '.join(map(str, places))}; name a Triton model repository")


def file_digest(path: Path) -> str:
    """SHA-256 of a model's file in hexadecimal, by which records name the model."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest_file(repository: Path, name: str) -> Path:
    """The ONNX file of a model's newest version.

    Raises:
        StackError: If the repository has no such model.
    """
    versions = served_models(repository).get(name)
    if not versions:
        raise StackError(f"there is no model {name} in {repository}")
    return repository / name / versions[-1] / "model.onnx"


def for_onnx_runtime(repository: Path) -> dict[str, list[str]]:
    """Those of :func:`served_models` that ONNX Runtime can run alone: no ensembles, no other backends."""
    return {
        name: versions
        for name, versions in served_models(repository).items()
        if _ONNX.search((repository / name / "config.pbtxt").read_text(errors="replace"))
    }


def shown_supports(repository: Path) -> frozenset[str]:
    """The models of a repository that have to be shown a support: segment models that take ``PROTOTYPES``."""
    configs = {
        config.parent.name: config.read_text(errors="replace") for config in repository.glob("*/config.pbtxt")
    }
    return frozenset(name for name, text in configs.items() if _SHOWN.search(text))


def served_models(repository: Path) -> dict[str, list[str]]:
    """The models of a repository with their versions, both in order."""
    return {
        config.parent.name: sorted((v.name for v in config.parent.iterdir() if _VERSION.match(v.name)), key=int)
        for config in sorted(repository.glob("*/config.pbtxt"))
    }
