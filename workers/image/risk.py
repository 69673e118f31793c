"""What a result's probabilities mean at the operating points of the model, and which labels they leave open.

The calibrated probability says how high a risk is. Measures and flags never lower it: they keep it from being
called low if the lesion has features that most nevi lack, or the measures cannot be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from dermbatch.models.risk import points_of, sets_of
from dermbatch.models.served import ServedModel
from dermbatch.records.outcome import (
    ClassifyOutput,
    LesionGeometry,
    Possible,
    QualityFlag,
    Risk,
    RiskLevel,
    SegmentOutput,
    Sign,
    StageOutput,
)
from dermbatch.stages import Stage
from workers.image.steps import Step

SIGNS: Mapping[Sign, float] = {"asymmetry": 0.1, "border": 1.25, "colours": 4, "diameter": 6.0}
"""Measures from which each is a sign: at most one in ten of the validation nevi has each of the first three; the
diameter, in mm, is that of the ABCD rule."""

ENOUGH = 2
"""Signs with which a risk is not called low."""

_DOUBTED: frozenset[QualityFlag] = frozenset(
    {"no_lesion", "touches_frame", "several_lesions", "low_confidence", "heavily_occluded"}
)


def assessed(
    steps: Iterable[Step], outputs: Sequence[StageOutput], flags: Sequence[QualityFlag]
) -> tuple[Risk | None, Possible | None]:
    """Risk and possible labels of an image; none if it was not classified, or the model does not provide them.

    Raises:
        ModelContractError: If the classifier's configuration has what cannot be read.
    """
    model = next((step.model for step in steps if step.stage is Stage.CLASSIFY), None)
    return (None, None) if model is None else (risk_of(model, outputs, flags), possible_of(model, outputs))


def risk_of(model: ServedModel, outputs: Iterable[StageOutput], flags: Iterable[QualityFlag]) -> Risk | None:
    """The risk; none where the model has no operating points, or the image no diagnosis.

    Raises:
        ModelContractError: If the operating points in the model's configuration are invalid.
    """
    found = list(outputs)
    probabilities = _probabilities(found)
    try:
        points = points_of(model.parameters, model.version)
    except ValueError as error:
        raise model.broken(f"has operating points that cannot be read: {error}") from error
    if points is None or points.of not in probabilities:
        return None
    probability = probabilities[points.of]
    reached = tuple(sensitivity for sensitivity, threshold in points.thresholds if probability >= threshold)
    signs, cautions = tuple(_signs(found)), tuple(flag for flag in flags if flag in _DOUBTED)
    level: RiskLevel = "raised" if reached else "low"
    if len(reached) == len(points.thresholds):
        level = "high"
    if not reached and (cautions or len(signs) >= ENOUGH):
        level = "unclear"
    return Risk(of=points.of, level=level, reached=reached, signs=signs, cautions=cautions)


def possible_of(model: ServedModel, outputs: Iterable[StageOutput]) -> Possible | None:
    """The labels that are possible; none where the model has no thresholds for them, or the image no diagnosis.

    Raises:
        ModelContractError: If the thresholds in the model's configuration are invalid.
    """
    probabilities = _probabilities(list(outputs))
    try:
        sets = sets_of(model.parameters, model.version)
    except ValueError as error:
        raise model.broken(f"has thresholds of possible labels that cannot be read: {error}") from error
    if sets is None or not probabilities:
        return None
    # A label without a threshold is never ruled out.
    labels = [label for label, p in probabilities.items() if p >= sets.thresholds.get(label, 0)]
    return Possible(labels=tuple(sorted(labels, key=lambda label: -probabilities[label])), coverage=sets.coverage)


def _probabilities(outputs: list[StageOutput]) -> dict[str, float]:
    return next((one.probabilities for one in outputs if isinstance(one, ClassifyOutput)), {})


def _signs(outputs: list[StageOutput]) -> Iterator[Sign]:
    lesion = next((one.lesion for one in outputs if isinstance(one, SegmentOutput)), None)
    if lesion is not None:
        yield from (
            sign for sign, value in _measures(lesion).items() if value is not None and value >= SIGNS[sign]
        )


def _measures(lesion: LesionGeometry) -> dict[Sign, float | None]:
    return {
        "asymmetry": lesion.asymmetry,
        "border": lesion.border_irregularity,
        "colours": lesion.colour.colours,
        "diameter": lesion.diameter_mm,
    }
