"""What results used, for Prometheus: as it happens, and only approximately. Bills are made from the records."""

from __future__ import annotations

from dermbatch import metrics
from dermbatch.records.row import Row
from dermbatch.stages import ORDER


def count(row: Row, tenant: str) -> None:
    """Count what the result with this row of the table is billed for."""
    metrics.USAGE_IMAGES.labels(tenant).inc()
    for stage in ORDER:
        if (seconds := row.get(f"{stage}_billed_seconds")) is not None:
            metrics.USAGE_STAGE_SECONDS.labels(tenant, stage).inc(seconds)
            metrics.USAGE_MODEL_SECONDS.labels(tenant, row[f"{stage}_device"]).inc(row[f"{stage}_model_seconds"])
    metrics.USAGE_BYTES.labels(tenant, "read").inc(row.get("bytes_read", 0))
    metrics.USAGE_BYTES.labels(tenant, "stored").inc(row.get("bytes_stored", 0))
