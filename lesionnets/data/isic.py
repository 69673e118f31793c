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

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}

Image = npt.NDArray[np.uint8]
"""RGB, [H, W, 3]."""


@dataclass(frozen=True)
class Sample:
    """One image, and where its expert mask lies and what the diagnosis is, as far as known."""

    image_id: str
    image: Path
    mask: Path | None = None
    diagnosis: str | None = None


def find_samples(images: Path, masks: Path | None = None) -> list[Sample]:
    """All images of a folder, by name; where masks are asked for, only images that have one.

    Args:
        images: Folder of images.
        masks: Folder of ``<image_id>_segmentation.png``.

    Raises:
        UsageError: Where a folder or file is missing or nothing is left.
    """
    for folder in (images, masks):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"there is no folder {folder}")
    samples = []
    for path in sorted(images.iterdir()):
        mask = masks / f"{path.stem}_segmentation.png" if masks else None
        if path.suffix.lower() in SUFFIXES and (mask is None or mask.is_file()):
            samples.append(Sample(path.stem, path, mask))
    if not samples:
        wanted = f"that has a mask in {masks}" if masks else "(" + " ".join(sorted(SUFFIXES)) + ")"
        raise UsageError(f"{images} holds no image {wanted}")
    return samples


def read_labels(path: Path, *, split: str | None = None) -> dict[str, str]:
    """Diagnosis by image_id, of one split where it is named.

    Raises:
        UsageError: Where the file is missing, lacks a column, or holds a diagnosis that is not of the three.
    """
    if not path.is_file():
        raise UsageError(f"there is no label file {path}")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and not {"image_id", "diagnosis"} <= set(rows[0]):
        raise UsageError(f"{path} needs the columns image_id and diagnosis")
    unknown = sorted({row["diagnosis"] for row in rows} - set(DIAGNOSES))
    if unknown:
        raise UsageError(f"{path} holds diagnoses that are none of {', '.join(DIAGNOSES)}: {', '.join(unknown)}")
    return {row["image_id"]: row["diagnosis"] for row in rows if split is None or row.get("split") == split}


def find_labelled(
    folders: Sequence[Path], labels: Path, *, masks: Path | None = None, split: str | None = None
) -> list[Sample]:
    """The images of several folders that have a diagnosis, with their masks where there are any.

    Args:
        folders: Of images.
        labels: CSV file, see :func:`read_labels`.
        masks: Folder of ``<image_id>_segmentation.png``.
        split: Only the labels of this split.

    Raises:
        UsageError: Where a folder or file is missing or nothing is left.
    """
    if masks is not None and not masks.is_dir():
        raise UsageError(f"there is no folder {masks}")
    diagnoses = read_labels(labels, split=split)
    found = []
    for sample in (sample for folder in folders for sample in find_samples(folder)):
        if sample.image_id in diagnoses:
            mask = masks / f"{sample.image_id}_segmentation.png" if masks else None
            has_mask = mask is not None and mask.is_file()
            diagnosis = diagnoses[sample.image_id]
            found.append(Sample(sample.image_id, sample.image, mask if has_mask else None, diagnosis))
    if not found:
        raise UsageError(f"no image of {', '.join(map(str, folders))} has a diagnosis in {labels}")
    return found


def read_image(path: Path, size: int | None = None) -> Image:
    """Decode an image as RGB uint8 [H, W, 3]; squashed to ``size`` x ``size`` by area where a size is given.

    Raises:
        UsageError: Where it cannot be decoded.
    """
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise UsageError(f"{path} cannot be read as an image")
    if size is not None:
        bgr = cv2.resize(bgr, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(bgr[:, :, ::-1])


def read_mask(path: Path, size: int | None = None) -> npt.NDArray[np.uint8]:
    """Decode a mask as uint8 [H, W], 0 or 255; shares of 0 to 255 where it is squashed to a size.

    Raises:
        UsageError: Where it cannot be decoded.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise UsageError(f"{path} cannot be read as a mask")
    mask = np.where(grey > 0, np.uint8(255), np.uint8(0))
    return mask if size is None else np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA))


def load_pairs(samples: Sequence[Sample], size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """All images [N, size, size, 3] and masks [N, size, size] of samples, squashed, in memory.

    Raises:
        UsageError: Where a sample has no mask or cannot be decoded.
    """
    images = np.empty((len(samples), size, size, 3), np.uint8)
    masks = np.empty((len(samples), size, size), np.uint8)
    for i, sample in enumerate(samples):
        if sample.mask is None:
            raise UsageError(f"{sample.image} has no mask")
        images[i] = read_image(sample.image, size)
        masks[i] = read_mask(sample.mask, size)
    return images, masks
