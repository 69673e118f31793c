"""Models that were asked for, against those that there are: in a repository's files or in a running Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dermbatch.errors import UsageError
from dermbatch.models.triton import Triton
from dermbatch.records import ModelChoice
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage

Served = Mapping[str, Sequence[str]]
"""Names of models to their versions, oldest first."""


def served(settings: TritonSettings, *, timeout: float = 10) -> Served:
    """The models that a Triton serves right now: those that it has loaded.

    Args:
        settings: Where it is.
        timeout: Seconds that it may take to answer.

    Raises:
        InferenceUnavailable: Where it does not answer, with its address.
    """
    triton = Triton(settings)
    try:
        return triton.index(timeout)
    finally:
        triton.close()


def check(models: Mapping[Stage, ModelChoice], served: Served, where: str) -> None:
    """Refuse what cannot be served, before anything is written.

    Args:
        models: What was asked for.
        served: What there is.
        where: What has it, for the sentence: a Triton's address, a repository's folder.

    Raises:
        UsageError: For a model or a version that is not there; the sentence names those that are.
    """
    for stage, choice in models.items():
        versions = served.get(choice.name)
        if versions is None:
            there = ", ".join(served) or "none at all"
            raise UsageError(f"{stage}: no model {choice.name!r} in {where}; there are {there}")
        if choice.version is not None and choice.version not in versions:
            there = f"has versions {', '.join(versions)}" if versions else "has no version"
            raise UsageError(f"{stage}: {choice.name} {there} in {where}, not {choice.version!r}")


def pinned(models: Mapping[Stage, ModelChoice], served: Served) -> dict[Stage, ModelChoice]:
    """The models, as :func:`check` has let them pass, each with the version that would run now."""
    return {
        stage: choice if choice.version else ModelChoice(name=choice.name, version=served[choice.name][-1])
        for stage, choice in models.items()
    }
