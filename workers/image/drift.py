"""What models find, as metrics: where it shifts from one week to the next, the images or the model are others."""

from __future__ import annotations

from dermbatch import metrics
from dermbatch.records import ClassifyOutput, ImageInfo, SegmentOutput, StageRecord


def note(record: StageRecord, image: ImageInfo) -> None:
    """Count what a stage that was run has found.

    Args:
        record: Of the stage.
        image: What it was run on.
    """
    model = (record.model.name, record.model.version)
    match record.output:
        case SegmentOutput(lesion=lesion):
            area = 0 if lesion is None else lesion.area_px
            metrics.LESION_SHARE.labels(*model).observe(area / (image.height * image.width))
        case ClassifyOutput(label=label):
            metrics.CLASSIFIED.labels(*model, label).inc()
