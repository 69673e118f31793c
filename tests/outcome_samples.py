"""Records of images that were never processed, for tests and benchmarks of what reads records."""

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO

import cv2
import numpy as np

from dermbatch import layout
from dermbatch.records.asked import Batch, ManifestEntry, ModelChoice, Order
from dermbatch.records.outcome import (
    BoundingBox,
    ClassifyOutput,
    ColourStatistics,
    EnhanceOutput,
    FailureRecord,
    LesionGeometry,
    ModelUsed,
    PurifyOutput,
    ResultRecord,
    SegmentOutput,
    SourceInfo,
    StageRecord,
)
from dermbatch.records.row import NO_DICOM, row_of, sent
from dermbatch.stages import ORDER, Stage
from orchestrator.reporting.table.columns import joined, rows_of

CREATED = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
LABELS = ("melanoma", "nevus", "seborrheic_keratosis")
SIDE = 64


def batch_of(name, images, **changes):
    asked = {"models": {stage: ModelChoice(name=f"{stage}_net") for stage in ORDER}}
    asked |= {field: changes.pop(field) for field in Order.model_fields if field in changes}
    order = Order(**asked)
    return Batch(name=name, created=CREATED, order=order, images=images, software="0.2.0", **changes)


def entry_of(index, **changes):
    fields = {"name": f"folder/{index:06d}.jpg", "source": f"s3://incoming/b/{index}", "size": 1000 + index}
    return ManifestEntry(index=index, **{"etag": hashlib.md5(b"%d" % index).hexdigest(), **fields, **changes})


@cache
def picture(index, side=224, tiles=4, noise=0):
    """A JPEG as preview.jpg: tiles side by side; with noise, as large as that of a real image."""
    random = np.random.default_rng(index)
    strip = np.full((side, side * tiles, 3), (130, 150, 200), np.uint8)
    strip += random.integers(0, 1 + noise, strip.shape, np.uint8)
    for tile in range(tiles):
        cv2.circle(strip, (side * tile + side // 2, side // 2), 30 + index % 50, (50, 60, 90), -1)
    return cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()


def npy(vector):
    body = BytesIO()
    np.save(body, vector)
    return body.getvalue()


def mask_png(radius, side=SIDE):
    mask = np.zeros((side, side), np.uint8)
    if radius:
        cv2.circle(mask, (side // 2, side // 2), radius, 255, -1)
    return cv2.imencode(".png", mask)[1].tobytes()


def lesion_of(area, side=SIDE, mm=None):
    spacing = {} if mm is None else {"area_mm2": area * mm**2, "perimeter_mm": 9.0, "diameter_mm": 5.5}
    return LesionGeometry(
        area_px=area,
        perimeter_px=90.0,
        bounding_box=BoundingBox(top=1, left=2, bottom=30, right=40),
        centroid=(15.5, 21.5),
        diameter_px=41.0,
        equivalent_diameter_px=33.0,
        asymmetry=0.125,
        border_irregularity=1.5,
        area_fraction=area / side**2,
        components=1,
        colour=ColourStatistics(
            mean_rgb=(90, 60, 50), std_rgb=(9, 6, 5), skin_mean_rgb=(200, 150, 130), colours=2
        ),
        **spacing,
    )


def result_of(
    batch,
    index,
    *,
    versions=None,
    area=300,
    mm=None,
    probabilities=(0.2, 0.7, 0.1),
    embedding=4,
    vector=None,
    preview=None,
    cached=(),
    flags=(),
    stages=ORDER,
):
    """A result; ``versions`` of models by stage decide the stage keys, as in earnest."""
    versions = dict.fromkeys(ORDER, "1") | (versions or {})
    sha256 = hashlib.sha256(b"%d" % index).hexdigest()
    by_label = dict(zip(LABELS, probabilities, strict=True))
    vector = np.arange(embedding, dtype=np.float32) + index if vector is None else vector
    outputs = {
        Stage.PURIFY: PurifyOutput(occluded_fraction=0.04),
        Stage.SEGMENT: SegmentOutput(
            lesion=lesion_of(area, mm=mm) if area else None, touches_frame=False, confidence=0.9
        ),
        Stage.ENHANCE: EnhanceOutput(method="super_resolution", scale=4.0),
        Stage.CLASSIFY: ClassifyOutput(
            probabilities=by_label,
            label=max(by_label, key=by_label.get),
            embedding_sha256=hashlib.sha256(vector.tobytes()).hexdigest(),
        ),
    }
    files = {Stage.PURIFY: "purified.png", Stage.SEGMENT: "mask.png", Stage.ENHANCE: "enhanced.png"}
    records, chain = {}, ""
    for stage in stages:
        chain += versions[stage]
        key = hashlib.sha256(f"{stage}{chain}".encode()).hexdigest()[:32]
        records[stage] = StageRecord(
            stage=stage,
            key=key,
            model=ModelUsed(name=f"{stage}_net", version=versions[stage], sha256="ab" * 32),
            parameters={},
            fed_by={},
            artifacts={files[stage]: layout.artifact(sha256, stage, key, files[stage])} if stage in files else {},
            inline={"embedding.npy": npy(vector)} if stage == Stage.CLASSIFY else {},
            seconds=0.25,
            output=outputs[stage],
        )
    started = CREATED + timedelta(seconds=index)
    return ResultRecord(
        batch=batch,
        index=index,
        name=f"folder/{index:06d}.jpg",
        source=SourceInfo(
            uri=f"s3://incoming/b/{index}",
            sha256=sha256,
            bytes=1000 + index,
            media_type="image/jpeg",
            height=SIDE,
            width=SIDE,
            pixel_spacing_mm=(mm, mm) if mm else None,
        ),
        stages=records,
        cached=cached,
        flags=flags,
        preview_jpeg=picture(index) if preview is None else preview,
        attempt=1,
        worker="w/1",
        started=started,
        finished=started + timedelta(seconds=1),
        seconds={"read": 0.01, "decode": 0.02, "write": 0.03} | {s: 0.1 for s in stages if s not in cached},
        software="0.2.0",
    )


def failure_of(batch, index, reason="truncated"):
    return FailureRecord(
        batch=batch,
        index=index,
        name=f"folder/{index:06d}.jpg",
        source=f"s3://incoming/b/{index}",
        reason=reason,
        message="the file ends before its picture does; copy it again",
        permanent=True,
        attempts=1,
        failed=CREATED,
        software="0.2.0",
    )


def write_manifest(store, batch, entries):
    """The manifest and the batch record."""
    entries = list(entries)
    for first in range(0, len(entries), layout.PART_SIZE):
        body = b"".join(entry.to_json() + b"\n" for entry in entries[first : first + layout.PART_SIZE])
        store.put(layout.manifest_part(batch.name, layout.part_of(first)[0]), body, "application/x-ndjson")
    store.put(layout.batch_record(batch.name), batch.to_json(), "application/json")


def write_record(store, record):
    """A result or failure record in its place."""
    key = layout.result if isinstance(record, ResultRecord) else layout.failure
    store.put(key(record.batch, record.index), record.to_json(), "application/json")


def table_of(records):
    """The table of these records, as a closed batch has it."""
    rows = rows_of([sent(row_of(record)) for record in records])
    return joined([rows]).drop_columns([NO_DICOM])
