"""Set operating points and sets of possible labels on images with known diagnoses, and measure how far they hold.

This is measured on images that they were not set on: in ten rounds of five folds, four fifths of the images set
the thresholds and the last fifth is called by them. An image counts by the share of rounds in which it was called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.model_selection import RepeatedStratifiedKFold

from dermbatch.errors import UsageError
from dermbatch.models.risk import Points, Sets
from lesionnets.data.sources.isic import read_rows
from lesionnets.evaluation.figures.intervals import Figure, bootstrap_mean
from lesionnets.evaluation.samples import read_diagnoses

FOLDS, ROUNDS = 5, 10

_PREFIX = "probability_"

Calls = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """Probabilities [N, C] of images, the index of each image's class [N], and the names of the classes."""

    shares: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def of(self, chosen: npt.NDArray[np.int64]) -> Known:
        """Some of the images, by index."""
        return Known(self.shares[chosen], self.labels[chosen], self.classes)

    def counts(self) -> str:
        """Number of images of each class, as text."""
        found = np.bincount(self.labels, minlength=len(self.classes))
        return ", ".join(
            f"{count} {name.replace('_', ' ')}" for name, count in zip(self.classes, found, strict=True)
        )


def read(path: Path, classes: Sequence[str], labels: Path | None) -> Known:
    """Probabilities and diagnoses of images.

    Args:
        path: A file that ``lesionnets evaluate classify`` or ``chain`` wrote with ``--out``, or a batch's table,
            ``results.parquet``.
        classes: Classes of the model.
        labels: CSV file with ``image_id`` and ``diagnosis`` (or ``dx``); needed for a batch's table, which has no
            diagnoses.

    Raises:
        UsageError: If files cannot be read, an image has two rows or two diagnoses, or none has a diagnosis and
            probabilities.
    """
    given: dict[str, tuple[str, list[float]]] = {}
    for name, row in (
        _of_table(path, classes) if path.suffix == ".parquet" or path.is_dir() else _of_csv(path, classes)
    ):
        if name in given:
            raise UsageError(f"{path} has several rows for {name}; give one of each image, at one resolution")
        given[name] = row
    if labels is not None:
        known = read_diagnoses(labels)
        given = {name: (known[name], shares) for name, (_, shares) in given.items() if name in known}
    found = [(diagnosis, shares) for diagnosis, shares in given.values() if diagnosis in classes]
    if not found:
        raise UsageError(f"no image of {path} has both probabilities and a diagnosis that the model knows")
    numbers = np.array([list(classes).index(diagnosis) for diagnosis, _ in found])
    return Known(np.array([shares for _, shares in found], np.float64), numbers, tuple(classes))


def _of_csv(path: Path, classes: Sequence[str]) -> Iterator[tuple[str, tuple[str, list[float]]]]:
    for row in read_rows(path, {"image_id", "diagnosis", *classes}):
        try:
            shares = [float(row[name]) for name in classes]
            if not all(0 <= share <= 1 for share in shares):
                raise ValueError(f"{shares} are no shares")  # noqa: TRY301 - as what is no number at all
        except ValueError as error:
            raise UsageError(
                f"{path} has a probability that is not a number from 0 to 1 (image {row['image_id']})"
            ) from error
        yield row["image_id"], (row["diagnosis"], shares)


def _of_table(path: Path, classes: Sequence[str]) -> Iterator[tuple[str, tuple[str, list[float]]]]:
    try:
        table = pq.read_table(path, columns=["name", *(f"{_PREFIX}{name}" for name in classes)])
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is not a table of results with probabilities of {', '.join(classes)}") from error
    for row in table.to_pylist():
        shares = [row[f"{_PREFIX}{name}"] for name in classes]
        if None not in shares:
            yield Path(row["name"]).stem, ("", shares)


def set_points(known: Known, of: str, sensitivities: Sequence[float]) -> Points:
    """The highest probabilities at which these shares of a class's images are called.

    Raises:
        UsageError: If the model does not know the class, or all or none of the images are of it.
    """
    if of not in known.classes:
        raise UsageError(f"the model has no class {of!r}; it has {', '.join(known.classes)}")
    mine = _mine(known, of)
    falling = np.sort(known.shares[mine, known.classes.index(of)])[::-1]
    # Sums of shares fall short of round numbers by rounding.
    at = [int(np.ceil(sensitivity * len(falling) - 1e-9)) - 1 for sensitivity in sorted(sensitivities)]
    thresholds = (_down(falling[max(0, number)]) for number in at)
    return Points(of, tuple(zip(sorted(sensitivities), thresholds, strict=True)))


def _mine(known: Known, of: str) -> npt.NDArray[np.bool_]:
    """Which images are of a class.

    Raises:
        UsageError: If all are, or none.
    """
    mine: npt.NDArray[np.bool_] = known.labels == known.classes.index(of)
    if not 0 < mine.sum() < len(mine):
        raise UsageError(f"operating points need images that are {of} and images that are not: {known.counts()}")
    return mine


def set_sets(known: Known, coverage: float) -> Sets:
    """Thresholds with which a new image's set holds its label with at least this chance, whatever the label is.

    The threshold is the k-th lowest probability of a label's N images, k = floor((N + 1) (1 - coverage)), or 0 if
    k is 0, because so few images rule nothing out. It holds for new images that are exchangeable with these.
    """
    thresholds = {}
    for number, name in enumerate(known.classes):
        rising = np.sort(known.shares[known.labels == number, number])
        at = int((len(rising) + 1) * (1 - coverage) + 1e-9)
        thresholds[name] = _down(rising[at - 1]) if at else 0.0
    return Sets(coverage, thresholds)


def by_folds(
    known: Known, of: str, sensitivities: Sequence[float], coverage: float, seed: int = 0
) -> dict[str, Figure]:
    """How far thresholds hold on images that they were not set on; 95 % bootstrap intervals over images.

    Raises:
        UsageError: If a class has fewer images than folds.
    """
    if np.bincount(known.labels, minlength=len(known.classes)).min() < FOLDS:
        raise UsageError(f"each class needs at least {FOLDS} images: there are {known.counts()}")
    called = np.zeros((len(known.labels), len(sensitivities)))
    held = np.zeros(known.shares.shape)
    folds = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=ROUNDS, random_state=seed)
    for setting, other in folds.split(known.shares, known.labels):
        some, rest = known.of(setting), known.of(other)
        called[other] += _called(rest, set_points(some, of, sensitivities))
        held[other] += _held(rest, set_sets(some, coverage))
    return _figures(known, of, sensitivities, called / ROUNDS, held / ROUNDS)


def elsewhere(known: Known, points: Points, sets: Sets) -> dict[str, Figure]:
    """How far thresholds that are already set hold on other images.

    Raises:
        UsageError: If all or none of the images are of the class of the operating points.
    """
    _mine(known, points.of)
    sensitivities = [sensitivity for sensitivity, _ in points.thresholds]
    return _figures(known, points.of, sensitivities, _called(known, points), _held(known, sets))


def _called(known: Known, points: Points) -> Calls:
    shares = known.shares[:, known.classes.index(points.of)]
    return np.stack([shares >= threshold for _, threshold in points.thresholds], axis=1).astype(np.float64)


def _held(known: Known, sets: Sets) -> Calls:
    return (known.shares >= np.array([sets.thresholds[name] for name in known.classes])).astype(np.float64)


def _figures(
    known: Known, of: str, sensitivities: Sequence[float], called: Calls, held: Calls
) -> dict[str, Figure]:
    """``sensitivity_at_82``, ``specificity_at_82``, ``coverage_<class>``, and ``labels``, a set's mean size."""
    mine = known.labels == known.classes.index(of)
    found = {}
    for number, sensitivity in enumerate(sorted(sensitivities)):
        found[f"sensitivity_at_{100 * sensitivity:g}"] = bootstrap_mean(called[mine, number].tolist())
        found[f"specificity_at_{100 * sensitivity:g}"] = bootstrap_mean((1 - called[~mine, number]).tolist())
    for number, name in enumerate(known.classes):
        if (members := known.labels == number).any():
            found[f"coverage_{name}"] = bootstrap_mean(held[members, number].tolist())
    found["labels"] = bootstrap_mean(held.sum(axis=1).tolist())
    return found


def _down(value: float) -> float:
    """Round down, so that this value itself still reaches the result."""
    return float(np.floor(value * 1e4) / 1e4)
