"""The contact sheet of a batch: one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from jinja2 import Environment, PackageLoader, StrictUndefined

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.records import (
    Batch,
    ClassifyOutput,
    EnhanceOutput,
    FailureRecord,
    ModelUsed,
    PurifyOutput,
    ResultRecord,
    SegmentOutput,
)
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.planner import read_batch

_SHOWN = 1000
"""Cards, and rows of failures, in one report: a browser has to open it."""

_READS_AT_A_TIME = 8


@dataclass(frozen=True)
class Card:
    """What the sheet shows of one image."""

    record: ResultRecord
    preview: str
    enhanced: str
    probabilities: list[tuple[str, float]]
    measures: list[tuple[str, str]]
    tags: list[str]


def read_results(store: ObjectStore, batch: str) -> Iterator[ResultRecord]:
    """Result records of a batch, a page of keys in memory at a time."""
    for body in _bodies(store, f"{layout.batch_prefix(batch)}results/"):
        yield ResultRecord.model_validate_json(body)


def read_failures(store: ObjectStore, batch: str) -> Iterator[FailureRecord]:
    """Failure records of a batch."""
    for body in _bodies(store, f"{layout.batch_prefix(batch)}failed/"):
        yield FailureRecord.model_validate_json(body)


def build_report(store: ObjectStore, name: str) -> bytes:
    """The contact sheet as UTF-8 HTML.

    Raises:
        ObjectNotFound: Where there is no such batch.
    """
    batch = read_batch(store, name)
    results: list[ResultRecord] = []
    labels: Counter[str] = Counter()
    done: set[int] = set()
    for record in read_results(store, name):
        done.add(record.index)
        labels.update(_label(record))
        if len(results) < _SHOWN:
            results.append(record)
    # A retry may have succeeded where an earlier record still tells of a failure.
    failures = list(islice((f for f in read_failures(store, name) if f.index not in done), _SHOWN))
    with ThreadPoolExecutor(_READS_AT_A_TIME) as pool:
        previews = list(pool.map(lambda record: _preview(store, record), results))
    cards = [_card(record, preview) for record, preview in zip(results, previews, strict=True)]
    html = (
        _environment()
        .get_template("report.html")
        .render(
            batch=batch,
            done=len(done),
            failed=batch.images - len(done),
            failures=sorted(failures, key=lambda failure: failure.index),
            results=sorted(cards, key=lambda card: card.record.index),
            labels=dict(sorted(labels.items())),
            flags=sorted({flag for record in results for flag in record.flags}),
            models=_models(batch, results),
        )
    )
    return html.encode()


def _bodies(store: ObjectStore, prefix: str) -> Iterator[bytes]:
    keys = (info.key for info in store.list(store.bucket, prefix))
    with ThreadPoolExecutor(_READS_AT_A_TIME) as pool:
        while chunk := list(islice(keys, layout.PART_SIZE)):
            yield from pool.map(lambda key: store.get(store.bucket, key), chunk)


def _preview(store: ObjectStore, record: ResultRecord) -> str:
    if record.preview is None:
        return ""
    try:
        return base64.b64encode(store.get(store.bucket, record.preview)).decode()
    except ObjectNotFound:
        return ""


def _card(record: ResultRecord, preview: str) -> Card:
    enhanced, measures = "enhanced", []
    for stage in record.stages.values():
        match stage.output:
            case SegmentOutput(lesion=lesion) if lesion is not None:
                measures += [
                    ("lesion", f"{lesion.area_fraction:.1%} of the image"),
                    ("diameter", _length(lesion.diameter_px, lesion.diameter_mm)),
                    ("asymmetry", f"{lesion.asymmetry:.2f}"),
                    ("border irregularity", f"{lesion.border_irregularity:.2f}"),
                    ("colours", str(lesion.colour.colours)),
                ]
            case PurifyOutput(occluded_fraction=share):
                measures.append(("occluded", f"{share:.1%}"))
            case EnhanceOutput(method="super_resolution", scale=scale) if scale is not None:
                enhanced = f"enhanced ×{scale:.3g}"
            case EnhanceOutput(method="native"):
                enhanced = "native detail"
    return Card(
        record=record,
        preview=preview,
        enhanced=enhanced,
        probabilities=_probabilities(record),
        measures=measures,
        tags=[*_label(record), *record.flags],
    )


def _probabilities(record: ResultRecord) -> list[tuple[str, float]]:
    stage = record.stages.get(Stage.CLASSIFY)
    if stage is None or not isinstance(stage.output, ClassifyOutput):
        return []
    return sorted(stage.output.probabilities.items(), key=lambda pair: -pair[1])


def _label(record: ResultRecord) -> list[str]:
    return [label for label, _ in _probabilities(record)[:1]]


def _length(pixels: float, millimetres: float | None) -> str:
    return f"{pixels:.0f} px" if millimetres is None else f"{millimetres:.1f} mm"


def _models(batch: Batch, results: list[ResultRecord]) -> list[tuple[Stage, ModelUsed]]:
    """Every model that took part, in the order of stages; more than one version where it changed on the way."""
    used = {(stage, record.stages[stage].model) for record in results for stage in record.stages}
    return sorted(used, key=lambda pair: (batch.stages.index(pair[0]), pair[1].name, pair[1].version))


def _environment() -> Environment:
    environment = Environment(loader=PackageLoader("orchestrator"), autoescape=True, undefined=StrictUndefined)
    environment.filters["words"] = lambda code: str(code).replace("_", " ")
    return environment
