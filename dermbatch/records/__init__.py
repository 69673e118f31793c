"""The records: what was asked (order, batch, manifest), what travels (job), what came out (result, failure).

All are JSON with these field names, in the object store and in Celery messages alike. Times are UTC, ISO 8601;
durations are seconds; pixel coordinates are (row, column) from the top left of the image as displayed.
"""

from dermbatch.records.batch import Batch, BatchControl, BatchSummary
from dermbatch.records.canary import Canary, CanaryRecord, Shadow
from dermbatch.records.image import ImageInfo, SourceInfo
from dermbatch.records.job import ImageJob
from dermbatch.records.manifest import Earlier, ManifestEntry, Refusal
from dermbatch.records.order import Deidentification, Lane, ModelChoice, Order
from dermbatch.records.plan import Filters, PlanRecord, Position
from dermbatch.records.record import FORMAT, Record
from dermbatch.records.result import DicomKind, FailureRecord, KnownImage, NoDicom, QualityFlag, ResultRecord, Sent
from dermbatch.records.stage import (
    BoundingBox,
    ClassifyOutput,
    ColourStatistics,
    EnhanceOutput,
    LesionGeometry,
    ModelUsed,
    PurifyOutput,
    SegmentOutput,
    StageOutput,
    StageRecord,
)

__all__ = [
    "FORMAT",
    "Batch",
    "BatchControl",
    "BatchSummary",
    "BoundingBox",
    "Canary",
    "CanaryRecord",
    "ClassifyOutput",
    "ColourStatistics",
    "Deidentification",
    "DicomKind",
    "Earlier",
    "EnhanceOutput",
    "FailureRecord",
    "Filters",
    "ImageInfo",
    "ImageJob",
    "KnownImage",
    "Lane",
    "LesionGeometry",
    "ManifestEntry",
    "ModelChoice",
    "ModelUsed",
    "NoDicom",
    "Order",
    "PlanRecord",
    "Position",
    "PurifyOutput",
    "QualityFlag",
    "Record",
    "Refusal",
    "ResultRecord",
    "SegmentOutput",
    "Sent",
    "Shadow",
    "SourceInfo",
    "StageOutput",
    "StageRecord",
]
