"""Operating points of a classifier, and thresholds of its sets of possible labels, as its configuration has them.

Beside the model, in ``parameters`` of ``config.pbtxt``, for each version, so that an institution sets its own::

    risk.1    melanoma 0.82=0.31 0.89=0.22 0.95=0.08
    sets.1    0.9 melanoma=0.07 nevus=0.31 seborrheic_keratosis=0.35

The first calls melanoma from a probability of 0.31 on, for a sensitivity of 82 %, and so on; the second has a
label among the possible ones from that probability on, for a coverage of 90 % of each label's images
(class-conditional split conformal prediction: Vovk, "Conditional validity of inductive conformal predictors", ACML
2012, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RISK, SETS = "risk", "sets"


@dataclass(frozen=True)
class Points:
    """The probabilities from which a label is called.

    Attributes:
        of: The label.
        thresholds: Each point's intended sensitivity, mapped to its probability, both 0 to 1; the least sensitive
            point, which has the highest probability, comes first.
    """

    of: str
    thresholds: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Sets:
    """The probabilities from which labels are possible.

    Attributes:
        coverage: Share of each label's images whose set should contain the label, 0 to 1.
        thresholds: Probability by label.
    """

    coverage: float
    thresholds: dict[str, float]


def points_of(parameters: Mapping[str, str], version: str) -> Points | None:
    """The operating points of a version; none if its configuration has none.

    Raises:
        ValueError: If what it has are none.
    """
    text = parameters.get(f"{RISK}.{version}")
    if text is None:
        return None
    of, pairs = _read(text)
    numbers = sorted((_share(name), value) for name, value in pairs)
    falling = [value for _, value in numbers]
    if not numbers or falling != sorted(falling, reverse=True):
        raise ValueError(
            f"{text!r} are not operating points: a higher sensitivity cannot have a higher probability"
        )
    return Points(of, tuple(numbers))


def sets_of(parameters: Mapping[str, str], version: str) -> Sets | None:
    """The thresholds of a version's sets; none if its configuration has none.

    Raises:
        ValueError: If what it has are none.
    """
    text = parameters.get(f"{SETS}.{version}")
    if text is None:
        return None
    coverage, pairs = _read(text)
    thresholds = dict(pairs)
    if not thresholds:
        raise ValueError(f"{text!r} has no thresholds")
    return Sets(_share(coverage), thresholds)


def written(points: Points | None, sets: Sets | None, version: str) -> dict[str, str]:
    """Both, written as parameters."""
    found = {}
    if points is not None:
        pairs = " ".join(f"{sensitivity:g}={threshold:g}" for sensitivity, threshold in points.thresholds)
        found[f"{RISK}.{version}"] = f"{points.of} {pairs}"
    if sets is not None:
        pairs = " ".join(f"{label}={threshold:g}" for label, threshold in sets.thresholds.items())
        found[f"{SETS}.{version}"] = f"{sets.coverage:g} {pairs}"
    return found


def _read(text: str) -> tuple[str, list[tuple[str, float]]]:
    first, *words = text.split()
    return first, [_pair(word) for word in words]


def _pair(word: str) -> tuple[str, float]:
    name, mark, value = word.partition("=")
    if not (name and mark):
        raise ValueError(f"{word!r} is not a pair such as 0.89=0.22")
    return name, _share(value)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is not a share from 0 to 1")
    return value
