"""The report of a batch: one HTML file that needs no network and no other file.

It is gathered table by table, in memory that does not grow with the batch: counts and distributions cover all
images, and all are listed; cards with pictures show a sample if there are more than a browser opens at once.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined

from dermbatch.records.asked import Batch
from dermbatch.records.measures import classification
from dermbatch.records.outcome import (
    BorderMeasures,
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
from orchestrator.batches.summary import Tally
from orchestrator.metering.bill import Costs
from orchestrator.reporting.listing import LISTED, ListedResults
from orchestrator.reporting.table.columns import truths

SHOWN = 300
"""Cards, and rows of failures, in one report: some 10 MB, which a browser opens at once."""

_BINS = 20

_SECTORS = (
    "at the top",
    "top right",
    "at the right",
    "bottom right",
    "at the bottom",
    "bottom left",
    "at the left",
    "top left",
)
"""Names of the sectors of :class:`BorderMeasures`."""


@dataclass(frozen=True)
class ImageCard:
    """What the report shows of one image."""

    index: int
    name: str
    size: str
    flags: tuple[QualityFlag, ...]
    picture: str
    lesion: str
    enhanced: str
    probabilities: list[tuple[str, float]]
    measures: list[tuple[str, str]]

    @property
    def tags(self) -> list[str]:
        """Words that find the card: the most probable label, and flags."""
        return [*(label for label, _ in self.probabilities[:1]), *self.flags]


class ImageSample:
    """A fixed-size sample of a batch's images: those whose index, mixed with a seed, gives the lowest numbers.

    The sample does not depend on the order in which images come, so a report made again is the same.
    """

    def __init__(self, size: int, seed: str) -> None:
        self._size = size
        self._seed = np.uint64(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
        self._taken: npt.NDArray[np.uint64] = np.empty(0, np.uint64)

    def offer(self, indices: npt.NDArray[np.int64]) -> None:
        """Take images in, or skip them."""
        both = np.concatenate([self._taken, indices.astype(np.uint64)])
        self._taken = both[np.argsort(_mixed(both ^ self._seed), kind="stable")[: self._size]]

    @property
    def indices(self) -> list[int]:
        """The indices in the sample, in random order; none twice unless offered twice."""
        return [int(index) for index in self._taken]


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Numbers mapped one to one to seemingly random ones (SplitMix64; Steele, Lea and Flood 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


class Distribution:
    """How values of 0 to 1 are spread over equal bins.

    Args:
        title: What is counted, for people.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.bins = [0] * _BINS
        self.count = 0

    def add(self, values: npt.ArrayLike) -> None:
        """Count values; those beyond an end count in the bin at that end."""
        given = np.atleast_1d(np.asarray(values, float))
        bins = np.bincount(np.clip((given * _BINS).astype(int), 0, _BINS - 1), minlength=_BINS)
        self.bins = [count + int(more) for count, more in zip(self.bins, bins, strict=True)]
        self.count += len(given)

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
    """Gathers what the page shows, one table of rows at a time.

    Args:
        batch: The batch that the rows are of.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._labels = Counter[str]()
        self._flags = Counter[str]()
        self._models: set[tuple[Stage, ModelUsed]] = set()
        self._failed: list[int] = []
        self._done = 0
        self._plain = ImageSample(SHOWN, f"{batch.name} plain")
        self._flagged = ImageSample(SHOWN, f"{batch.name} flagged")
        self._listing = ListedResults()
        self._probability = Distribution("Probability of the most probable class")
        self._confidence = Distribution("Confidence of segmentation")
        self._area = Distribution("Lesion's share of the image")
        self._occluded = Distribution("Share of hair, ruler or ink")

    def add(self, rows: pa.Table) -> None:
        """Take in the outcomes of these rows."""
        is_done = pc.equal(rows["outcome"], "done")
        failed = rows["index"].filter(pc.invert(is_done)).to_pylist()
        self._failed = sorted([*self._failed, *failed])[:SHOWN]
        done = rows.filter(is_done)
        self._done += len(done)
        self._labels.update(label for label in done["label"].to_pylist() if label is not None)
        self._flags.update(pc.list_flatten(done["flags"]).to_pylist())
        for stage in ORDER:
            columns = [f"{stage}_{what}" for what in ("model", "version", "sha256")]
            for name, version, sha256 in set(zip(*(done[column].to_pylist() for column in columns), strict=True)):
                if name is not None:
                    self._models.add((stage, ModelUsed(name=name, version=version, sha256=sha256)))
        self._spread(done)
        self._listing.add(done)
        flagged = truths(pc.greater(pc.list_value_length(done["flags"]), 0))
        indices = np.asarray(done["index"], np.int64)
        self._flagged.offer(indices[flagged])
        self._plain.offer(indices[~flagged])

    def _spread(self, done: pa.Table) -> None:
        segmented = done.filter(pc.is_valid(done["lesion"]))
        self._occluded.add(done["occluded_fraction"].drop_null())
        self._confidence.add(segmented["confidence"])
        self._area.add(segmented["area_fraction"].fill_null(0.0))
        self._probability.add(done["probability"].drop_null())

    @property
    def wanted(self) -> list[int]:
        """Images whose records the page shows, in order: cards, and failures."""
        return sorted({*self._shown(), *self._failed})

    def html(
        self,
        tally: Tally,
        state: Literal["finished", "cancelled"],
        records: Mapping[int, ResultRecord | FailureRecord],
        costs: Costs = Costs(),  # noqa: B008 - it is frozen
    ) -> bytes:
        """The page as UTF-8.

        Args:
            tally: Tally of the same outcomes.
            state: The state, which says whether all images were to get an outcome.
            records: Those of the images that are :attr:`wanted`, by index.
            costs: What was used and what it comes to.
        """
        cards = [card(record) for index in self._shown() if (record := _result(records, index))]
        spreads = (self._probability, self._confidence, self._area, self._occluded)
        page = environment().get_template("report.html")
        listed = [*sorted({*self._labels, *(label for one in cards for label, _ in one.probabilities)})]
        return page.render(
            batch=self._batch,
            state=state,
            tally=tally,
            costs=costs,
            promised=tally.summary(self._batch, state, slots=0),
            not_run=self._batch.images - tally.done - tally.failed,
            failures=[failure for i in self._failed if isinstance(failure := records.get(i), FailureRecord)],
            cards=cards,
            flagged=sum(1 for one in cards if one.flags),
            labels=dict(sorted(self._labels.items())),
            listed=listed,
            rows=self._listing.json(listed, sorted(self._flags)),
            most=LISTED,
            flags=dict(sorted(self._flags.items())),
            stages=[(stage, tally.stages[stage]) for stage in ORDER if tally.stages[stage].count],
            distributions=[spread for spread in spreads if spread.count],
            models=sorted(self._models, key=lambda pair: (ORDER.index(pair[0]), pair[1].name, pair[1].version)),
        ).encode()

    def _shown(self) -> list[int]:
        """All in order; of too many, flagged ones come first, and may take at least half of the places."""
        flagged, plain = self._flagged.indices, self._plain.indices
        if len(flagged) + len(plain) == self._done <= SHOWN:
            return sorted([*flagged, *plain])
        first = flagged[: max(SHOWN // 2, SHOWN - len(plain))]
        return [*sorted(first), *sorted(plain[: SHOWN - len(first)])]


def _result(records: Mapping[int, ResultRecord | FailureRecord], index: int) -> ResultRecord | None:
    record = records.get(index)
    return record if isinstance(record, ResultRecord) else None


def card(record: ResultRecord) -> ImageCard:
    """What is shown of an image; without a picture if the record has none."""
    outlined, enhanced, measures = "lesion", "enhanced", list[tuple[str, str]]()
    for stage in record.stages.values():
        match stage.output:
            case SegmentOutput(lesion=lesion, border=border) if lesion is not None:
                measures += _measures(lesion)
                if border is not None:
                    outlined, measures = "lesion, border zone", [*measures, *_by_sector(border)]
            case PurifyOutput(occluded_fraction=share):
                measures.append(("occluded", f"{share:.1%}"))
            case EnhanceOutput(method="super_resolution", scale=scale) if scale is not None:
                enhanced = f"enhanced ×{scale:.3g}"
            case EnhanceOutput(method="resampled", scale=scale) if scale is not None:
                enhanced = f"resampled ×{scale:.3g}"
            case EnhanceOutput(method="native"):
                enhanced = "native detail"
    return ImageCard(
        index=record.index,
        name=record.name,
        size=f"{record.source.width} × {record.source.height}",
        flags=record.flags,
        picture=base64.b64encode(record.preview_jpeg or b"").decode(),
        lesion=outlined,
        enhanced=enhanced,
        probabilities=probabilities(record),
        measures=[*_assessed(record), *measures],
    )


def _assessed(record: ResultRecord) -> Iterator[tuple[str, str]]:
    """Risk and possible labels, if the record has them."""
    if (risk := record.risk) is not None:
        at = f", from {risk.reached[0]:.0%} sensitivity" if risk.reached else ""
        yield f"risk of {risk.of.replace('_', ' ')}", f"{risk.level}{at}"
    if (possible := record.possible) is not None:
        labels = ", ".join(label.replace("_", " ") for label in possible.labels) or "none of the labels"
        yield f"possible ({possible.coverage:.0%})", labels


def probabilities(record: ResultRecord) -> list[tuple[str, float]]:
    """Labels with their probabilities, the most probable first; empty where the image was not classified."""
    output = classification(record)
    return sorted(output.probabilities.items(), key=lambda pair: -pair[1]) if output else []


@cache
def environment() -> Environment:
    """The template environment of pages, which escapes what they show."""
    found = Environment(loader=PackageLoader("orchestrator.reporting"), autoescape=True, undefined=StrictUndefined)
    found.filters["words"] = lambda code: str(code).replace("_", " ")
    found.filters["count"] = lambda number: f"{number:,}"
    found.filters["decimal"] = lambda number: f"{number:,f}"
    return found


def _measures(lesion: LesionGeometry) -> Sequence[tuple[str, str]]:
    return (
        ("lesion", f"{lesion.area_fraction:.1%} of the image"),
        ("diameter", _length(lesion.diameter_px, lesion.diameter_mm)),
        ("asymmetry", f"{lesion.asymmetry:.2f}"),
        ("border irregularity", f"{lesion.border_irregularity:.2f}"),
        ("colours", str(lesion.colour.colours)),
    )


def _by_sector(border: BorderMeasures) -> Iterator[tuple[str, str]]:
    """The sector in which the border is least sharp, and the one in which it wavers most."""
    least = min(range(len(_SECTORS)), key=lambda at: border.sharpness[at])
    most = max(range(len(_SECTORS)), key=lambda at: border.irregularity[at])
    sharpness = f"{min(border.sharpness):.2f} to {max(border.sharpness):.2f}"
    yield "border sharpness", f"{sharpness}, least {_SECTORS[least]}"
    yield "outline wavers", f"by {max(border.irregularity):.1%} of the radius {_SECTORS[most]}"


def _length(pixels: float, millimetres: float | None) -> str:
    return f"{pixels:.0f} px" if millimetres is None else f"{millimetres:.1f} mm"
