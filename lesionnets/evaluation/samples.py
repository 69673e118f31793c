"""Which images of a user's folders are measured, and how many are left out for which reason.

Anything that would make a figure wrong is an error: an expert's mask without an image, a duplicate image, two
diagnoses for one image. Anything that only leaves fewer images is counted and reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dermbatch.errors import UsageError
from dermbatch.images.pixels import MIN_SIDE
from lesionnets.data.sources.isic import SUFFIXES, Image, Sample, read_image, read_table

_MASK = "_segmentation"
_OTHERWISE = " (or dx), separated by commas"


@dataclass(frozen=True)
class Found:
    """The images to measure on.

    Attributes:
        samples: Images in order of their ids.
        left_out: Numbers of what was left out, by reason.
    """

    samples: list[Sample]
    left_out: dict[str, int] = field(default_factory=dict)


def pictures(folders: Sequence[Path]) -> Found:
    """All images.

    Raises:
        UsageError: If a folder is missing, an image occurs twice, or there is no image.
    """
    return Found([Sample(key, path) for key, path in sorted(_images(folders).items())])


def with_masks(folders: Sequence[Path], masks: Path, *, partial: bool = False) -> Found:
    """All images with an expert's mask; those without are left out.

    Args:
        folders: Of images.
        masks: Folder of ``<image_id>_segmentation.png``.
        partial: Leave out masks that have no image, too, instead of refusing them.

    Raises:
        UsageError: If a folder is missing, an image occurs twice, a mask has no image, or nothing is left.
    """
    images, experts = _images(folders), _masks(masks)
    orphans = sorted(set(experts) - set(images))
    if orphans and not partial:
        raise UsageError(
            f"{len(orphans)} of {len(experts)} masks in {masks} have no image in {_names(folders)} "
            f"({_few(orphans)}): name all folders of images, or leave them out with --partial"
        )
    samples = [Sample(key, images[key], experts[key]) for key in sorted(images) if key in experts]
    if not samples:
        raise UsageError(f"no image of {_names(folders)} has a mask in {masks}")
    left_out = {"images without a mask": len(images) - len(samples), "masks without an image": len(orphans)}
    return Found(samples, {what: count for what, count in left_out.items() if count})


def with_diagnoses(
    folders: Sequence[Path],
    labels: Path,
    *,
    masks: Path | None = None,
    split: str | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Found:
    """All images with a diagnosis, and their masks if there are any; the others are left out.

    Args:
        folders: Of images.
        labels: CSV file with ``image_id``, ``diagnosis`` (or HAM10000's ``dx``) and perhaps ``split``.
        masks: Folder of ``<image_id>_segmentation.png``.
        split: Only the labels of this split.
        renamed: What diagnoses are called here; one renamed to nothing is left out.

    Raises:
        UsageError: If a folder, file or column is missing, an image occurs twice or has two diagnoses, a name to
            rename does not occur, or nothing is left.
    """
    images, told = _images(folders), read_diagnoses(labels, split=split)
    renamed = renamed or {}
    if unknown := sorted(set(renamed) - set(told.values())):
        raise UsageError(f"{labels} has no diagnosis {_few(unknown)} to rename")
    named = {key: renamed.get(diagnosis, diagnosis) for key, diagnosis in told.items()}
    diagnoses = {key: diagnosis for key, diagnosis in named.items() if diagnosis}
    experts = _masks(masks) if masks else {}
    samples = [
        Sample(key, images[key], experts.get(key), diagnoses[key]) for key in sorted(images) if key in diagnoses
    ]
    if not samples:
        raise UsageError(
            f"no image of {_names(folders)} has a diagnosis in {labels}: "
            f"images are called {_few(sorted(images), 1)}, the labels have {_few(sorted(diagnoses), 1)}"
        )
    left_out = {
        "images without a diagnosis": len(images) - len(samples),
        "diagnoses without an image": len(diagnoses) - len(samples),
        "diagnoses that are renamed to nothing": len(told) - len(diagnoses),
    }
    return Found(samples, {what: count for what, count in left_out.items() if count})


def with_either(
    folders: Sequence[Path],
    masks: Path | None,
    labels: Path | None,
    *,
    split: str | None = None,
    renamed: Mapping[str, str] | None = None,
    partial: bool = False,
) -> Found:
    """All images with an expert's mask, a diagnosis or both; the others are left out.

    With a split, only images that the labels assign to it.

    Args:
        folders: Of images.
        masks: Folder of ``<image_id>_segmentation.png``.
        labels: As for :func:`with_diagnoses`.
        split: Only the labels of this split.
        renamed: What diagnoses are called here; one renamed to nothing is left out.
        partial: Leave out masks that have no image, too, instead of refusing them.

    Raises:
        UsageError: As in :func:`with_masks` and :func:`with_diagnoses`, or if there is a split but no labels.
    """
    if labels is None:
        if masks is None or split is not None or renamed:
            raise UsageError("--split and --map concern labels: name a file with --labels")
        return with_masks(folders, masks, partial=partial)
    labelled = with_diagnoses(folders, labels, masks=masks, split=split, renamed=renamed)
    if masks is None or split is not None:
        return labelled
    marked = with_masks(folders, masks, partial=partial)
    found = {sample.image_id: sample for sample in (*marked.samples, *labelled.samples)}
    left_out = {"images without a mask or a diagnosis": len(_images(folders)) - len(found)}
    left_out |= {what: count for what, count in labelled.left_out.items() if what != "images without a diagnosis"}
    if orphans := marked.left_out.get("masks without an image"):
        left_out["masks without an image"] = orphans
    return Found([found[key] for key in sorted(found)], {what: count for what, count in left_out.items() if count})


def read_diagnoses(path: Path, *, split: str | None = None) -> dict[str, str]:
    """Diagnosis by image_id; rows without one are skipped.

    Args:
        path: CSV file; its columns may be in any order.
        split: Only rows of this split.

    Raises:
        UsageError: If the file is missing or not text, lacks a column, has no row (of the split), or names two
            diagnoses for one image.
    """
    if not (table := read_table(path)):
        raise UsageError(f"{path} holds no labels; it needs a row for each image")
    columns = set(table[0])
    column = "dx" if "dx" in columns and "diagnosis" not in columns else "diagnosis"
    needed = {"image_id", column} | ({"split"} if split is not None else set())
    if missing := needed - columns:
        raise UsageError(
            f"{path} lacks the column {_few(sorted(missing))}; it needs image_id and diagnosis{_OTHERWISE}"
        )
    found: dict[str, str] = {}
    for row in table:
        key, diagnosis = (row["image_id"] or "").strip(), (row[column] or "").strip()
        if not key or not diagnosis or (split is not None and (row["split"] or "").strip() != split):
            continue
        if found.setdefault(key, diagnosis) != diagnosis:
            raise UsageError(f"{path} has two diagnoses for {key}: {found[key]} and {diagnosis}")
    if not found:
        raise UsageError(f"{path} has no diagnosis" + (f" of split {split!r}" if split is not None else ""))
    return found


def _images(folders: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for path in image_files(folder):
            if path.stem in found:
                raise UsageError(f"image {path.stem} occurs twice: {found[path.stem]} and {path}")
            found[path.stem] = path
    if not found:
        raise UsageError(f"{_names(folders)} holds no image ({' '.join(sorted(SUFFIXES))})")
    return found


def _masks(folder: Path) -> dict[str, Path]:
    found = {path.stem.removesuffix(_MASK): path for path in image_files(folder) if path.stem.endswith(_MASK)}
    if not found:
        raise UsageError(f"{folder} holds no mask (ID{_MASK}.png)")
    return found


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder; names that begin with a dot belong to the file system and are skipped."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    entries = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    found = [path for path in entries if path.suffix.lower() in SUFFIXES]
    if others := [path for path in found if not path.is_file()]:
        raise UsageError(f"{others[0]} is no file, or a link to none: leave it out")
    return found


def read_picture(path: Path) -> Image:
    """Decode an image that is to be measured: RGB uint8 [H, W, 3].

    Raises:
        UsageError: If it cannot be decoded, or is smaller than what a worker takes.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise UsageError(f"{path} has {width} x {height} pixels; at least {MIN_SIDE} on each side are needed")
    return image


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
