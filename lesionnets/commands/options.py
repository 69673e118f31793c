"""Options that several commands share, and how their texts are parsed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dermbatch.errors import UsageError
from lesionnets.evaluation.figures.strata import Strata

LEAST_SIDE = 32
"""Least long side in pixels that pictures are reduced to: networks halve the sides of their maps five times."""

Images = Annotated[list[Path], typer.Option(help="Folder of images; may be given several times.")]
Masks = Annotated[Path, typer.Option(help="Folder of <image_id>_segmentation.png.")]
Labels = Annotated[Path, typer.Option(help="CSV file with image_id, diagnosis (or dx) and perhaps split.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint (best.pt), an ONNX file, or triton://HOST:PORT/NAME[@VERSION]; by default what ships."
    ),
]
Segmenter = Annotated[str | None, typer.Option(help="Model that finds the lesions, in the form of --model.")]
Classifier = Annotated[str | None, typer.Option(help="Model that diagnoses, in the form of --model.")]
Flips = Annotated[bool, typer.Option(help="Average over each picture and its mirror images; for checkpoints.")]
Native = Annotated[
    bool, typer.Option(help="Send all pixels of an image, not as many as a worker sends (1,024 on the long side).")
]
Partial = Annotated[bool, typer.Option(help="Ignore masks without an image, instead of refusing them.")]
Split = Annotated[str | None, typer.Option(help="Only rows of the labels with this split.")]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Classes separated by commas, in the order of the probabilities; by default the model's labels."
    ),
]


def _writable(path: Path | None) -> Path | None:
    """A file that can be written, before hours are spent on what is to be in it."""
    if path is None:
        return None
    try:
        if path.is_dir():
            raise UsageError(f"--out {path} is a folder: name a CSV file")
        if not path.parent.is_dir():
            raise UsageError(f"--out {path}: there is no folder {path.parent}")
        if not path.exists():
            path.open("xb").close()
            path.unlink()
        elif path.is_file():  # and no pipe, whose reader would take this for its end
            path.open("ab").close()
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written: {error.strerror}") from error
    return path


def not_over(out: Path | None, labels: Path | None) -> None:
    """Refuse to write rows over the labels.

    Raises:
        UsageError: If both are the same file.
    """
    if out is not None and labels is not None and out.exists() and labels.exists() and out.samefile(labels):
        raise UsageError(f"--out {out} would replace the labels: name another file")


def _makable(path: Path | None) -> Path | None:
    """A folder that can be made and written into, before hours are spent on what is to be in it."""
    if path is None:
        return None
    if path.is_file():
        raise UsageError(f"{path} is a file: name a folder")
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise UsageError(f"{path} cannot be written: choose another folder, or change its permissions")
    for folder in made:
        folder.rmdir()
    return path


MADE = _makable
"""Callback of options that name a folder to write into."""


Out = Annotated[Path | None, typer.Option(help="CSV file to write, with one row an image.", callback=_writable)]
LongSide = Annotated[
    str | None,
    typer.Option(
        help="First reduce pictures to this many pixels on the long side, 32 or more, as other cameras would take "
        "them; several are separated by commas, and figures are then called NAME_at_PIXELS."
    ),
]
Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        help="New names for diagnoses, such as bkl=seborrheic_keratosis,df=; those with an empty name are left "
        "out.",
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        help="Also report groups: contrast (of lesion and skin), source (part of the ISIC archive), or both "
        "separated by a comma; figures are called NAME_GROUP."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def listed(text: str | None) -> list[str]:
    """Words between commas."""
    return [word.strip() for word in text.split(",")] if text else []


def sides(text: str | None) -> list[tuple[int | None, str]]:
    """Long sides, pixels, that were asked for, and what their figures' names end in.

    Raises:
        UsageError: If it is no list of pixels, names some twice, or so few that no lesion can be seen.
    """
    if text is None:
        return [(None, "")]
    words = listed(text)
    if not words or not all(word.isdecimal() for word in words):
        raise UsageError(f"--long-side {text!r} is not a list of pixels such as 256,512")
    pixels = [int(word) for word in words]
    if min(pixels) < LEAST_SIDE:
        raise UsageError(
            f"--long-side {text!r}: lesions can be seen from {LEAST_SIDE} pixels on, the side of one place in the "
            "networks' last maps; leave smaller sides out"
        )
    if twice := [side for side in pixels if pixels.count(side) > 1]:
        raise UsageError(f"--long-side {text!r} names {twice[0]} twice: their figures would have one name")
    return [(side, f"_at_{side}" if len(pixels) > 1 else "") for side in pixels]


def renamed(text: str | None) -> dict[str, str]:
    """What diagnoses are called otherwise.

    Raises:
        UsageError: If it is no list of pairs, or one is renamed to two.
    """
    pairs = [word.partition("=") for word in listed(text)]
    if any(not mark or not name.strip() for name, mark, _ in pairs):
        raise UsageError(f"--map {text!r} is not a list such as bkl=seborrheic_keratosis,df=")
    found: dict[str, str] = {}
    for name, _, other in pairs:
        if found.setdefault(name.strip(), other.strip()) != other.strip():
            raise UsageError(f"--map {text!r} has two names for {name.strip()}")
    return found


def strata(text: str | None) -> list[Strata]:
    """By what figures are grouped.

    Raises:
        UsageError: If images cannot be grouped by that.
    """
    words = listed(text)
    if unknown := [word for word in words if word not in set(Strata)]:
        raise UsageError(f"images cannot be grouped by {', '.join(unknown)}; --by takes {', '.join(Strata)}")
    return [Strata(word) for word in words]
