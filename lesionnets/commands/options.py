"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dermbatch.errors import UsageError
from lesionnets.evaluation.figures.strata import Strata

Images = Annotated[list[Path], typer.Option(help="Folder of images; may be given several times.")]
Masks = Annotated[Path, typer.Option(help="Folder of <image_id>_segmentation.png.")]
Labels = Annotated[Path, typer.Option(help="CSV file with image_id, diagnosis (or dx) and perhaps split.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint (best.pt), an ONNX file, or triton://HOST:PORT/NAME[@VERSION]; by default what ships."
    ),
]
Segmenter = Annotated[str | None, typer.Option(help="Model that finds the lesions, as --model.")]
Classifier = Annotated[str | None, typer.Option(help="Model of the diagnoses, as --model.")]
Flips = Annotated[bool, typer.Option(help="Mean over each picture and its mirror images; of a checkpoint.")]
Native = Annotated[
    bool, typer.Option(help="Send all pixels of an image, not as many as a worker sends (1,024 on the long side).")
]
Partial = Annotated[bool, typer.Option(help="Leave out masks that have no image, instead of refusing them.")]
Split = Annotated[str | None, typer.Option(help="Only rows of the labels with this split.")]
Classes = Annotated[
    str | None,
    typer.Option(help="Comma separated, in the order of the probabilities; the model's labels if not given."),
]
Out = Annotated[Path | None, typer.Option(help="CSV file to write: a row an image.")]
LongSide = Annotated[
    str | None,
    typer.Option(
        help="Reduce pictures to this many pixels on the long side first, as other cameras had made them; several "
        "with commas between: figures are then called NAME_at_PIXELS."
    ),
]
Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        help="Other names of diagnoses, such as bkl=seborrheic_keratosis,df=; those named nothing are left out.",
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        help="Figures of groups, too: contrast (of lesion and skin), source (part of the ISIC archive), or both "
        "with a comma between; they are called NAME_GROUP."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def listed(text: str | None) -> list[str]:
    """Words between commas."""
    return [word.strip() for word in text.split(",")] if text else []


def sides(text: str | None) -> list[tuple[int | None, str]]:
    """Long sides, pixels, that were asked for, and what their figures' names end in.

    Raises:
        UsageError: Where it is no list of pixels.
    """
    if text is None:
        return [(None, "")]
    words = listed(text)
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--long-side {text!r} is no list of pixels such as 256,512")
    return [(int(word), f"_at_{int(word)}" if len(words) > 1 else "") for word in words]


def renamed(text: str | None) -> dict[str, str]:
    """What diagnoses are called otherwise.

    Raises:
        UsageError: Where it is no list of pairs.
    """
    pairs = [word.partition("=") for word in listed(text)]
    if any(not mark or not name.strip() for name, mark, _ in pairs):
        raise UsageError(f"--map {text!r} is no list such as bkl=seborrheic_keratosis,df=")
    return {name.strip(): other.strip() for name, _, other in pairs}


def strata(text: str | None) -> list[Strata]:
    """By what figures are grouped.

    Raises:
        UsageError: Where images cannot be grouped by that.
    """
    words = listed(text)
    if unknown := [word for word in words if word not in set(Strata)]:
        raise UsageError(f"images cannot be grouped by {', '.join(unknown)}; --by takes {', '.join(Strata)}")
    return [Strata(word) for word in words]
