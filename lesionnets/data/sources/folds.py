"""Sources of the ISIC 2017 images, one of which is left out to see how a network does elsewhere.

The archive does not name its contributors, but its numbers came in runs, each with its own cameras, sizes and
shares of diagnoses. A network that never saw a run is measured on it, which says more about other clinics than a
random part would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lesionnets.data.sources.isic import MASK_END, Sample, find_samples, read_labels

LAST = (1152, 11402, 13000, 14000)
"""Number of the last image of each source except the last one."""

COPIES = frozenset({"ISIC_0012271", "ISIC_0012175"})
"""Training images that are copies of test images, so they are not trained on."""


def source_of(image_id: str) -> int:
    """The source of an image, 0 to 4, by the number in its name, such as ``ISIC_0012345``."""
    return sum(int(image_id.rpartition("_")[2]) > last for last in LAST)


def all_samples(data: Path, split: str) -> list[Sample]:
    """Every image of a split, with its mask and diagnosis if there are any.

    Those of ``DATA/<split>``; those of ``DATA/unmasked_256`` that the labels give to the split, with masks of
    ``DATA/unmasked_masks_256``; for training also those of ``DATA/../isic2018_extra``, which have no diagnosis.

    Raises:
        UsageError: If the split's images or the labels are missing.
    """
    diagnoses = read_labels(data / "labels.csv", split=split)
    found = find_samples(data / split / "images")
    masks = [data / split / "masks", data / "unmasked_masks_256"]
    if (rest := data / "unmasked_256").is_dir():
        found += [sample for sample in find_samples(rest) if sample.image_id in diagnoses]
    extra = data.parent / "isic2018_extra"
    if split == "train" and (extra / "images").is_dir():
        found += find_samples(extra / "images")
        masks.append(extra / "masks")
    return [
        replace(sample, mask=_mask(sample.image_id, masks), diagnosis=diagnoses.get(sample.image_id))
        for sample in found
        if sample.image_id not in COPIES
    ]


def split_samples(data: Path, left_out: int | None) -> tuple[list[Sample], list[Sample]]:
    """The images to train on and to measure on: ``train`` and ``val``, or ``train`` with one source left out.

    Raises:
        UsageError: As for :func:`all_samples`.
    """
    training, held_out = (all_samples(data, split) for split in ("train", "val"))
    return (training, held_out) if left_out is None else fold(training, left_out)


def _mask(image_id: str, folders: Sequence[Path]) -> Path | None:
    paths = (folder / f"{image_id}{MASK_END}" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def fold(samples: Sequence[Sample], source: int) -> tuple[list[Sample], list[Sample]]:
    """The images of all other sources, and those of this source."""
    inside = [sample for sample in samples if source_of(sample.image_id) == source]
    outside = [sample for sample in samples if source_of(sample.image_id) != source]
    return outside, inside
