"""Weights besides the default models: one-shot without one diagnosis each, patterns, generators."""

from __future__ import annotations

from pathlib import Path

from dermbatch.errors import UsageError
from lesionnets.data.sources.isic import DIAGNOSES

_FOLDER = Path(__file__).parent


def oneshot_without(diagnosis: str) -> Path:
    """The checkpoint that never saw a diagnosis.

    Raises:
        UsageError: If there is none.
    """
    path = _FOLDER / f"oneshot-without-{diagnosis}.pt"
    if not path.is_file():
        others = ", ".join(
            sorted(one.stem.removeprefix("oneshot-without-") for one in _FOLDER.glob("oneshot-without-*.pt"))
        )
        raise UsageError(
            f"no weights come along that never saw {diagnosis}, only some without {others or 'nothing'}: train "
            f"them with `lesionnets train segment_oneshot --unseen {diagnosis}`, and name them with --model"
        )
    return path


def patterns_along() -> list[Path]:
    """The checkpoints of ``classify_patterns`` that come along: three seeds, without the encoder.

    Raises:
        UsageError: If there are none.
    """
    found = sorted(_FOLDER.glob("patterns-*.pt"))
    if not found:
        raise UsageError("no weights of classify_patterns come along: train it, and name its best.pt with --model")
    return found


def generator_of(diagnosis: str) -> Path:
    """The checkpoint that generates pictures of a diagnosis: its own, or one of all diagnoses.

    Raises:
        UsageError: If there is none.
    """
    for name in (diagnosis, "coupled") if diagnosis in DIAGNOSES else ():
        path = _FOLDER / f"generate-{name}.pt"
        if path.is_file():
            return path
    raise UsageError(
        f"no weights come along that generate {diagnosis}: train them with `lesionnets train generate_dcgan "
        f"--class "
        f"{diagnosis}`, and name them with --model"
    )
