"""HAM10000 (Tschandl, Rosendahl, Kittler, Scientific Data 2018; CC BY-NC 4.0): seven diagnoses.

::

    images/<image_id>.jpg
    labels.csv                             image_id, lesion_id, dx

It has several pictures of many lesions. If it were split by image, a network would be judged on lesions it has
seen.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sklearn.model_selection import StratifiedGroupKFold

from dermbatch.errors import UsageError
from lesionnets.data.sources.isic import Sample, find_samples, read_rows

DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""Actinic keratosis, basal cell carcinoma, benign keratosis, dermatofibroma, melanoma, nevus, vascular lesion."""

_COLUMNS = {"image_id", "lesion_id", "dx"}
_FOLDS = 5


def is_ham10000(data: Path) -> bool:
    """Whether a folder has HAM10000's layout, judging by the heading of its labels."""
    path = data / "labels.csv"
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return set(file.readline().strip().split(",")) >= _COLUMNS


def split_by_lesion(data: Path) -> tuple[list[Sample], list[Sample]]:
    """Four fifths of the images to train on and one fifth to choose on; all pictures of a lesion are on one side.

    Both sides have the diagnoses in the same proportions, as far as lesions allow. The split depends only on the
    files, never on a seed.

    Args:
        data: Folder with ``images`` and ``labels.csv``.

    Raises:
        UsageError: If files are missing, a diagnosis is unknown, or there are too few lesions to split.
    """
    path = data / "labels.csv"
    rows = {row["image_id"]: row for row in read_rows(path, _COLUMNS)}
    unknown = sorted({row["dx"] for row in rows.values()} - set(DIAGNOSES))
    if unknown:
        raise UsageError(f"{path} holds diagnoses other than {', '.join(DIAGNOSES)}: {', '.join(unknown)}")
    samples = [
        Sample(found.image_id, found.image, diagnosis=rows[found.image_id]["dx"])
        for found in find_samples(data / "images")
        if found.image_id in rows
    ]
    lesions = [rows[sample.image_id]["lesion_id"] for sample in samples]
    fewest = min(Counter(sample.diagnosis for sample in samples).values(), default=0)
    if min(fewest, len(set(lesions))) < _FOLDS:
        raise UsageError(f"{data} holds too few images of a diagnosis: {fewest}, and {_FOLDS} are needed")
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    diagnoses = [str(sample.diagnosis) for sample in samples]
    chosen, held_out = next(folds.split(samples, diagnoses, lesions))
    return [samples[i] for i in chosen], [samples[i] for i in held_out]
