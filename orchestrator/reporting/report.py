"""The report of a batch: one HTML file that needs no network and no other file.

It is gathered outcome by outcome, in memory that does not grow with the batch: counts and distributions are of all
images; cards with pictures are of a sample, where there are more than a browser opens at once.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from dermbatch.records.asked import Batch
from dermbatch.records.outcome import (
    ClassifyOutput,
    EnhanceOutput,
    FailureRecord,
    LesionGeometry,
    ModelUsed,
    PurifyOutput,
    QualityFlag,
    ResultRecord,
    SegmentOutput,
)
from dermbatch.stages import ORDER, Stage
from orchestrator.batches.outcomes import Outcome
from orchestrator.batches.summary import Tally

SHOWN = 300
"""Cards, and rows of failures, in one report: some 10 MB, which a browser opens at once."""

_BINS = 20


@dataclass(frozen=True)
class Card:
    """What the report shows of one image."""

    index: int
    name: str
    size: str
    flags: tuple[QualityFlag, ...]
    picture: str
    enhanced: str
    probabilities: list[tuple[str, float]]
    measures: list[tuple[str, str]]

    @property
    def tags(self) -> list[str]:
        """What the card is found by: the most probable label, and flags."""
        return [*(label for label, _ in self.probabilities[:1]), *self.flags]


class Sample:
    """A sample of fixed size of a stream, every item with the same chance (Vitter 1985, algorithm R).

    The same stream gives the same sample, so that a report made again is the same.
    """

    def __init__(self, size: int, seed: str) -> None:
        self.cards: list[Card] = []
        self._size = size
        self._random = Random(seed)  # noqa: S311 - a choice of pictures to show
        self._seen = 0

    def offer(self, record: ResultRecord) -> None:
        """Take the next item, or pass it over; only what is taken costs time and memory."""
        self._seen += 1
        if len(self.cards) < self._size:
            self.cards.append(card(record))
        elif (place := self._random.randrange(self._seen)) < self._size:
            self.cards[place] = card(record)


class Distribution:
    """How values of 0 to 1 are spread over equal bins.

    Args:
        title: What is counted, for people.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.bins = [0] * _BINS
        self.count = 0

    def add(self, value: float) -> None:
        """Count one value; what lies outside counts at the end that it is beyond."""
        self.bins[max(0, min(_BINS - 1, int(value * _BINS)))] += 1
        self.count += 1

    @property
    def bars(self) -> list[tuple[str, int, float]]:
        """For each bin: its range, its count, and its height as a share of the highest."""
        highest = max(self.bins) or 1
        width = 1 / _BINS
        return [
            (f"{at * width:.2f} to {(at + 1) * width:.2f}", count, count / highest)
            for at, count in enumerate(self.bins)
        ]


class Report:
    """Gathers what the page shows.

    Args:
        batch: The batch that the outcomes are of.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._labels = Counter[str]()
        self._flags = Counter[str]()
        self._models: set[tuple[Stage, ModelUsed]] = set()
        self._failures: list[FailureRecord] = []
        self._plain = Sample(SHOWN, f"{batch.name} plain")
        self._flagged = Sample(SHOWN, f"{batch.name} flagged")
        self._probability = Distribution("Probability of the most probable class")
        self._confidence = Distribution("Confidence of segmentation")
        self._area = Distribution("Lesion's share of the image")
        self._occluded = Distribution("Share of hair, ruler or ink")

    def add(self, outcome: Outcome) -> None:
        """Take in one outcome."""
        record = outcome.record
        if isinstance(record, FailureRecord):
            if len(self._failures) < SHOWN:
                self._failures.append(record)
            return
        self._labels.update(label for label, _ in probabilities(record)[:1])
        self._flags.update(record.flags)
        self._models.update((stage.stage, stage.model) for stage in record.stages.values())
        self._spread(record)
        (self._flagged if record.flags else self._plain).offer(record)

    def _spread(self, record: ResultRecord) -> None:
        for stage in record.stages.values():
            match stage.output:
                case PurifyOutput(occluded_fraction=share):
                    self._occluded.add(share)
                case SegmentOutput(lesion=lesion, confidence=confidence):
                    self._confidence.add(confidence)
                    self._area.add(lesion.area_fraction if lesion is not None else 0.0)
                case ClassifyOutput(probabilities=by_label) if by_label:
                    self._probability.add(max(by_label.values(), default=0.0))

    def html(self, tally: Tally, state: Literal["finished", "cancelled"]) -> bytes:
        """The page as UTF-8.

        Args:
            tally: Of the same outcomes.
            state: Whether all images were to get their outcome.
        """
        cards = self._cards(tally.done)
        spreads = (self._probability, self._confidence, self._area, self._occluded)
        page = environment().get_template("report.html")
        return page.render(
            batch=self._batch,
            state=state,
            tally=tally,
            not_run=self._batch.images - tally.done - tally.failed,
            failures=self._failures,
            cards=cards,
            flagged=sum(1 for one in cards if one.flags),
            labels=dict(sorted(self._labels.items())),
            flags=dict(sorted(self._flags.items())),
            stages=[(stage, tally.stages[stage]) for stage in ORDER if tally.stages[stage].count],
            distributions=[spread for spread in spreads if spread.count],
            models=sorted(self._models, key=lambda pair: (ORDER.index(pair[0]), pair[1].name, pair[1].version)),
        ).encode()

    def _cards(self, done: int) -> list[Card]:
        """All in order; of more than fit, flagged ones first, which may take half of the places at least."""
        flagged, plain = self._flagged.cards, self._plain.cards
        if len(flagged) + len(plain) == done <= SHOWN:
            return sorted([*flagged, *plain], key=lambda one: one.index)
        first = flagged[: max(SHOWN // 2, SHOWN - len(plain))]
        rest = plain[: SHOWN - len(first)]
        return [*sorted(first, key=lambda one: one.index), *sorted(rest, key=lambda one: one.index)]


def card(record: ResultRecord) -> Card:
    """What is shown of an image; without a picture where the record has none."""
    enhanced, measures = "enhanced", list[tuple[str, str]]()
    for stage in record.stages.values():
        match stage.output:
            case SegmentOutput(lesion=lesion) if lesion is not None:
                measures += _measures(lesion)
            case PurifyOutput(occluded_fraction=share):
                measures.append(("occluded", f"{share:.1%}"))
            case EnhanceOutput(method="super_resolution", scale=scale) if scale is not None:
                enhanced = f"enhanced ×{scale:.3g}"
            case EnhanceOutput(method="resampled", scale=scale) if scale is not None:
                enhanced = f"resampled ×{scale:.3g}"
            case EnhanceOutput(method="native"):
                enhanced = "native detail"
    return Card(
        index=record.index,
        name=record.name,
        size=f"{record.source.width} × {record.source.height}",
        flags=record.flags,
        picture=base64.b64encode(record.preview_jpeg or b"").decode(),
        enhanced=enhanced,
        probabilities=probabilities(record),
        measures=measures,
    )


def probabilities(record: ResultRecord) -> list[tuple[str, float]]:
    """Labels with their probabilities, the most probable first; empty where the image was not classified."""
    stage = record.stages.get(Stage.CLASSIFY)
    if stage is None or not isinstance(stage.output, ClassifyOutput):
        return []
    return sorted(stage.output.probabilities.items(), key=lambda pair: -pair[1])


def environment() -> Environment:
    """Where pages come from; what they show is escaped."""
    found = Environment(loader=PackageLoader("orchestrator.reporting"), autoescape=True, undefined=StrictUndefined)
    found.filters["words"] = lambda code: str(code).replace("_", " ")
    found.filters["count"] = lambda number: f"{number:,}"
    return found


def _measures(lesion: LesionGeometry) -> Sequence[tuple[str, str]]:
    return (
        ("lesion", f"{lesion.area_fraction:.1%} of the image"),
        ("diameter", _length(lesion.diameter_px, lesion.diameter_mm)),
        ("asymmetry", f"{lesion.asymmetry:.2f}"),
        ("border irregularity", f"{lesion.border_irregularity:.2f}"),
        ("colours", str(lesion.colour.colours)),
    )


def _length(pixels: float, millimetres: float | None) -> str:
    return f"{pixels:.0f} px" if millimetres is None else f"{millimetres:.1f} mm"
