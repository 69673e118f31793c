"""Measures and probabilities of a result, each with its code and unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.sr.coding import Code

from dermbatch.records import codes
from dermbatch.records.outcome import ClassifyOutput, LesionGeometry, ResultRecord
from dermbatch.stages import Stage


@dataclass(frozen=True)
class Measure:
    """One number that was found.

    Attributes:
        name: What it is.
        value: In ``unit``.
        unit: In UCUM.
        derivation: Which of several such values, such as the largest diameter.
        method: How it was measured, if the name does not say.
    """

    name: Code
    value: float
    unit: Code
    derivation: Code | None = None
    method: Code | None = None


def measures(lesion: LesionGeometry) -> Iterator[Measure]:
    """A lesion's measures: in mm if the image states its pixel spacing, else in pixels; shapes have no unit."""
    if lesion.area_mm2 is not None and lesion.diameter_mm is not None and lesion.perimeter_mm is not None:
        area, perimeter, diameter = lesion.area_mm2, lesion.perimeter_mm, lesion.diameter_mm
        square, length = codes.SQUARE_MILLIMETRES, codes.MILLIMETRES
    else:
        area, perimeter, diameter = float(lesion.area_px), lesion.perimeter_px, lesion.diameter_px
        square = length = codes.PIXELS
    yield Measure(codes.AREA, area, square)
    yield Measure(codes.PERIMETER, perimeter, length)
    yield Measure(codes.DIAMETER, diameter, length, derivation=codes.MAXIMUM, method=codes.FERET)
    yield Measure(codes.ASYMMETRY, lesion.asymmetry, codes.NO_UNIT)
    yield Measure(codes.BORDER_IRREGULARITY, lesion.border_irregularity, codes.NO_UNIT)


def classification(record: ResultRecord) -> ClassifyOutput | None:
    """The classifier's output for an image; none if it did not run."""
    stage = record.stages.get(Stage.CLASSIFY)
    return stage.output if stage and isinstance(stage.output, ClassifyOutput) else None


def probabilities(output: ClassifyOutput) -> Iterator[Measure]:
    """Every class's probability, 0 to 1; none if it is not a dermoscopic image."""
    for label, value in output.probabilities.items():
        yield Measure(codes.probability(label), value, codes.NO_UNIT)


def most_probable(output: ClassifyOutput) -> Code:
    """The most probable class, or the code for there being none if it is not a dermoscopic image."""
    return codes.NOT_CLASSIFIED if output.label is None else codes.finding(output.label)


def probability_change(old: ClassifyOutput | None, new: ClassifyOutput | None) -> float | None:
    """The largest change in a class's probability, 0 to 1; a class unknown to one model counts as 0 there.

    None if one of the two results has no classification.
    """
    if old is None or new is None:
        return None
    labels = old.probabilities.keys() | new.probabilities.keys()
    changes = (abs(old.probabilities.get(name, 0.0) - new.probabilities.get(name, 0.0)) for name in labels)
    return max(changes, default=0.0)
