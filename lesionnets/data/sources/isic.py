"""Folders of dermoscopic images with expert masks and labels, in the layout of the ISIC challenges.

::

    images/<image_id>.jpg
    masks/<image_id>_segmentation.png      non-zero: lesion
    labels.csv                             image_id, diagnosis and, in the recipes' data, split
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.errors import UsageError

DIAGNOSES = ("melanoma", "nevus", "seborrheic_keratosis")
"""The three classes of ISIC 2017, in the order of every classifier's output."""

MASK_END = "_segmentation.png"
"""The part of a mask's file name after the image_id."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}

Image = npt.NDArray[np.uint8]
"""RGB, [H, W, 3]."""


@dataclass(frozen=True)
class Sample:
    """One image, with the path of its expert mask and its diagnosis, if they are known."""

    image_id: str
    image: Path
    mask: Path | None = None
    diagnosis: str | None = None


def find_samples(images: Path, masks: Path | None = None) -> list[Sample]:
    """All images of a folder, by name; if masks are asked for, only images that have one.

    Args:
        images: Folder of images.
        masks: Folder of ``<image_id>_segmentation.png``.

    Raises:
        UsageError: If a folder is missing or has no such image, or a mask has no image.
    """
    for folder in (images, masks):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"there is no folder {folder}")
    samples = []
    for path in sorted(images.iterdir()):
        mask = masks / f"{path.stem}{MASK_END}" if masks else None
        if path.suffix.lower() in SUFFIXES and (mask is None or mask.is_file()):
            samples.append(Sample(path.stem, path, mask))
    if not samples:
        wanted = f"that has a mask in {masks}" if masks else "(" + " ".join(sorted(SUFFIXES)) + ")"
        raise UsageError(f"{images} holds no image {wanted}")
    if masks is not None:
        known = {sample.image_id for sample in samples}
        for path in sorted(masks.glob(f"*{MASK_END}")):
            if path.name.removesuffix(MASK_END) not in known:
                raise UsageError(f"there is no image for the mask {path}; delete it, or add its image")
    return samples


def read_labels(
    path: Path, *, split: str | None = None, diagnoses: Sequence[str] = DIAGNOSES, column: str = "diagnosis"
) -> dict[str, str]:
    """Diagnosis by image_id, of one split if it is named.

    Args:
        path: CSV file with the columns ``image_id``, ``column`` and, if one is named, ``split``.
        split: Only rows with this split.
        diagnoses: The diagnoses that may occur.
        column: The column with the diagnosis.

    Raises:
        UsageError: If the file is missing or empty, lacks a column, or holds an unknown diagnosis.
    """
    rows = read_rows(path, {"image_id", column} | ({"split"} if split else set()))
    unknown = sorted({row[column] for row in rows} - set(diagnoses))
    if unknown:
        raise UsageError(f"{path} holds diagnoses other than {', '.join(diagnoses)}: {', '.join(unknown)}")
    return {row["image_id"]: row[column] for row in rows if split is None or row["split"] == split}


def read_rows(path: Path, columns: set[str]) -> list[dict[str, str]]:
    """The rows of a label file, which must have these columns.

    Raises:
        UsageError: If the file is missing, empty or not a CSV file, or lacks a column.
    """
    rows = read_table(path)
    if not rows:
        raise UsageError(f"{path} holds no labels; it needs a row for each image")
    if not columns <= set(rows[0]):
        raise UsageError(f"{path} needs the columns {' and '.join(sorted(columns, reverse=True))}")
    return [{name: row[name] or "" for name in columns} for row in rows]


def read_table(path: Path) -> list[dict[str, str | None]]:
    """The rows of a CSV file, whatever its columns are, by the columns' names.

    Raises:
        UsageError: If the file is missing or is not a CSV file.
    """
    if not path.is_file():
        raise UsageError(f"there is no label file {path}")
    try:
        # Spreadsheets write a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [{(key or "").strip(): value for key, value in row.items()} for row in csv.DictReader(file)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a CSV file") from error


def find_labelled(
    folders: Sequence[Path], labels: Path, *, masks: Path | None = None, split: str | None = None
) -> list[Sample]:
    """The images of several folders that have a diagnosis, with their masks if there are any.

    Args:
        folders: Folders of images.
        labels: CSV file, see :func:`read_labels`.
        masks: Folder of ``<image_id>_segmentation.png``.
        split: Only the labels of this split.

    Raises:
        UsageError: If a folder or file is missing or nothing is left.
    """
    if masks is not None and not masks.is_dir():
        raise UsageError(f"there is no folder {masks}")
    diagnoses = read_labels(labels, split=split)
    found = []
    for sample in (sample for folder in folders for sample in find_samples(folder)):
        if sample.image_id in diagnoses:
            mask = masks / f"{sample.image_id}{MASK_END}" if masks else None
            has_mask = mask is not None and mask.is_file()
            diagnosis = diagnoses[sample.image_id]
            found.append(Sample(sample.image_id, sample.image, mask if has_mask else None, diagnosis))
    if not found:
        raise UsageError(f"no image of {', '.join(map(str, folders))} has a diagnosis in {labels}")
    return found


def labelled(data: Path, split: str) -> list[Sample]:
    """The images of a split of the recipes' data that have a diagnosis, also those without a mask.

    Raises:
        UsageError: As :func:`find_labelled` does.
    """
    folders = [folder for folder in (data / split / "images", data / "unmasked_256") if folder.is_dir()]
    return find_labelled(folders, data / "labels.csv", masks=data / split / "masks", split=split)


def read_image(path: Path, size: int | None = None) -> Image:
    """Decode an image as RGB uint8 [H, W, 3]; squashed to ``size`` x ``size`` by area if a size is given.

    Raises:
        UsageError: If it cannot be decoded.
    """
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise UsageError(f"{path} cannot be read as an image; replace it, or leave it out")
    if size is not None:
        bgr = cv2.resize(bgr, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(bgr[:, :, ::-1])


def read_mask(path: Path, size: int | None = None) -> npt.NDArray[np.uint8]:
    """Decode a mask as uint8 [H, W], 0 or 255; shares from 0 to 255 if it is squashed to a size.

    Raises:
        UsageError: If it cannot be decoded.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise UsageError(f"{path} cannot be read as a mask; replace it, or leave it out")
    mask = np.where(grey > 0, np.uint8(255), np.uint8(0))
    return mask if size is None else np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA))


def read_fitting_mask(path: Path, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The mask of an image of this height and width, at the mask's own resolution; uint8 [h, w], 0 or 255.

    Raises:
        UsageError: If it has other proportions or no lesion, or cannot be decoded.
    """
    mask = read_mask(path)
    rows, columns = mask.shape
    # A pixel on either side is what rounding to another resolution makes of the same proportions.
    if abs(rows * width - columns * height) > max(height, width) + max(rows, columns):
        raise UsageError(
            f"{path} is {columns} x {rows} pixels, but its image {width} x "
            f"{height}: give a mask of the same proportions"
        )
    if not mask.any():
        raise UsageError(f"{path} is empty: it shows no lesion; draw one, or leave it out")
    return mask


def read_pair(sample: Sample, size: int | None = None) -> tuple[Image, npt.NDArray[np.uint8]]:
    """An image and its mask for training: both squashed to a size, or the mask resized to the image.

    Args:
        sample: An image with a mask of the same proportions, at any resolution.
        size: Side of the square in pixels.

    Returns:
        Image [H, W, 3] and mask [H, W], 0 to 255.

    Raises:
        UsageError: If there is no mask, it has other proportions or no lesion, or a file cannot be decoded.
    """
    if sample.mask is None:
        raise UsageError(f"{sample.image} has no mask; add one, or leave the image out")
    image = read_image(sample.image)
    height, width = image.shape[:2]
    mask = read_fitting_mask(sample.mask, height, width)
    if size is None:
        if mask.shape != (height, width):
            mask = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        return image, mask
    square = (size, size)
    small, label = (cv2.resize(values, square, interpolation=cv2.INTER_AREA) for values in (image, mask))
    return np.asarray(small, np.uint8), np.asarray(label, np.uint8)


def load_pairs(samples: Sequence[Sample], size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read all images [N, size, size, 3] and masks [N, size, size] of samples into memory, squashed.

    Raises:
        UsageError: As :func:`read_pair` does.
    """
    images = np.empty((len(samples), size, size, 3), np.uint8)
    masks = np.empty((len(samples), size, size), np.uint8)
    for i, sample in enumerate(samples):
        images[i], masks[i] = read_pair(sample, size)
    return images, masks
