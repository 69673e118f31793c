"""An image's row in its batch's table: workers send it along, so that nobody has to read the record again.

A row says nothing that the record does not say; if there is none, it is made from the record. ``docs/table.md``
lists the columns. Sent as JSON, with the embedding's float32 bytes in Base64 and times in microseconds since 1970.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import threading
from datetime import datetime
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import SecretStr

from dermbatch.records.outcome import (
    ClassifyOutput,
    EnhanceOutput,
    FailureRecord,
    LesionGeometry,
    PurifyOutput,
    ResultRecord,
    SegmentOutput,
    StageRecord,
)

Row = dict[str, Any]

PROBABILITIES = "probabilities"
"""In a row, the probabilities by label; in the table, each label has a column."""

NO_DICOM = "without_dicom"
"""Only in a row: whether DICOM objects were asked for but there are none."""

GEOMETRY = (
    "area_px",
    "area_fraction",
    "perimeter_px",
    "diameter_px",
    "equivalent_diameter_px",
    "asymmetry",
    "border_irregularity",
    "area_mm2",
    "perimeter_mm",
    "diameter_mm",
    "components",
)
BOX = ("top", "left", "bottom", "right")
CENTROID = ("centroid_row", "centroid_column")
COLOURS = ("lesion_mean", "lesion_std", "skin_mean")


def row_of(record: ResultRecord | FailureRecord, **asked: Any) -> Row:
    """The row of one image, by column; columns without a value are left out.

    Args:
        record: What became of it.
        **asked: What the manifest says: ``duplicate_of``; ``bytes`` and ``frame``, which a failure does not say.
    """
    row: Row = {"index": record.index, **asked}
    if isinstance(record, FailureRecord):
        row |= _of_failure(record)
    else:
        row |= _of_result(record)
        for stage in record.stages.values():
            row |= _of_stage(stage, record)
    return {column: value for column, value in row.items() if value is not None}


def sent(row: Row) -> str:
    """A row in the form in which it is sent."""
    told = {column: value for column, value in row.items() if _can_be_sent(value)}
    if PROBABILITIES in told:
        pairs = told[PROBABILITIES].items()
        told[PROBABILITIES] = [{"label": label, "p": p} for label, p in pairs if _can_be_sent(p)]
    return json.dumps(told, separators=(",", ":"), allow_nan=False, default=_plain)


def sealed(text: str, batch: str, key: SecretStr | None) -> str:
    """A row to be sent, signed for its batch if messages are signed."""
    return text if key is None else f"{_signature(text, batch, key)}{text}"


def opened(text: str, batch: str, key: SecretStr | None) -> str | None:
    """A row that was sent; none if it is not signed with this key for this batch."""
    if key is None:
        return text if text.startswith("{") else None
    signature, told = text[:_HEX], text[_HEX:]
    return told if hmac.compare_digest(_signature(told, batch, key).encode(), signature.encode()) else None


_HEX = hashlib.sha256().digest_size * 2


def _signature(text: str, batch: str, key: SecretStr) -> str:
    return hmac.digest(key.get_secret_value().encode(), f"{batch}\n{text}".encode(), "sha256").hex()


def _can_be_sent(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1_000_000)
    if isinstance(value, np.ndarray):
        return base64.b64encode(np.asarray(value, "<f4").tobytes()).decode()
    raise TypeError(f"a row cannot hold a {type(value).__name__}")


def _of_failure(record: FailureRecord) -> Row:
    return {
        "outcome": "failed",
        "name": record.name,
        "source": record.source,
        "reason": record.reason,
        "message": record.message,
        "permanent": record.permanent,
        "attempt": record.attempts,
        "finished": record.failed,
        "software": record.software,
    }


def _of_result(record: ResultRecord) -> Row:
    source = record.source
    row, column = source.pixel_spacing_mm or (None, None)
    return {
        "outcome": "done",
        "frame": source.frame,
        NO_DICOM: record.no_dicom is not None,
        "flags": list(record.flags),
        "risk": record.risk.level if record.risk else None,
        "possible": list(record.possible.labels) if record.possible else None,
        "name": record.name,
        "source": source.uri,
        "sha256": source.sha256,
        "bytes": source.bytes,
        "media_type": source.media_type,
        "height": source.height,
        "width": source.width,
        "pixel_spacing_row_mm": row,
        "pixel_spacing_column_mm": column,
        "notes": list(source.notes),
        **{f"seconds_{step}": record.seconds.get(step) for step in ("read", "decode", "write")},
        "bytes_read": record.usage.bytes_read if record.usage else None,
        "bytes_stored": _stored(record),
        "attempt": record.attempt,
        "seconds_waited": record.waited,
        "worker": record.worker,
        "started": record.started,
        "finished": record.finished,
        "software": record.software,
    }


def _of_stage(stage: StageRecord, record: ResultRecord) -> Row:
    cached = stage.stage in record.cached
    row: Row = {
        f"{stage.stage}_model": stage.model.name,
        f"{stage.stage}_version": stage.model.version,
        f"{stage.stage}_sha256": stage.model.sha256,
        f"{stage.stage}_key": stage.key,
        f"{stage.stage}_cached": cached,
        f"{stage.stage}_seconds": None if cached else record.seconds.get(stage.stage),
    }
    if is_billed(stage, record):
        row |= {
            f"{stage.stage}_billed_seconds": stage.seconds if record.usage else record.seconds.get(stage.stage),
            f"{stage.stage}_model_seconds": stage.model_seconds,
            f"{stage.stage}_device": stage.device,
        }
    match stage.output:
        case PurifyOutput(occluded_fraction=share):
            row |= {"occluded_fraction": share, "purified_png": stage.artifacts.get("purified.png")}
        case SegmentOutput() as output:
            row |= {
                "lesion": output.lesion is not None,
                "touches_frame": output.touches_frame,
                "confidence": output.confidence,
                "mask_png": stage.artifacts.get("mask.png"),
            }
            row |= _of_lesion(output.lesion) if output.lesion is not None else {}
        case EnhanceOutput() as output:
            row |= {
                "enhance_method": output.method,
                "enhance_scale": output.scale,
                "enhanced_png": stage.artifacts.get("enhanced.png"),
            }
        case ClassifyOutput() as output:
            row |= {
                "label": output.label,
                "probability": output.probabilities.get(output.label or ""),
                PROBABILITIES: output.probabilities,
                "embedding": embedding(stage),
            }
    return row


def is_billed(stage: StageRecord, record: ResultRecord) -> bool:
    """Whether a result's usage event bills the run of a stage, by this attempt or by one that was killed."""
    if record.usage is None:
        return stage.stage not in record.cached
    return stage.billed_by == record.usage.event


def _stored(record: ResultRecord) -> int:
    """Bytes of the objects that exist for this result alone, or were first made for it."""
    written = [*record.dicom_written.values()]
    for stage in record.stages.values():
        if is_billed(stage, record):
            written += stage.written.values()
            written += [one.written for one in stage.differences.values() if one.key is not None]
    return sum(one.bytes for one in written)


def _of_lesion(lesion: LesionGeometry) -> Row:
    row: Row = {name: getattr(lesion, name) for name in GEOMETRY}
    row |= {f"box_{side}": getattr(lesion.bounding_box, side) for side in BOX}
    row |= dict(zip(CENTROID, lesion.centroid, strict=True))
    colour = lesion.colour
    for what, values in zip(COLOURS, (colour.mean_rgb, colour.std_rgb, colour.skin_mean_rgb), strict=True):
        if values is not None:
            row |= {f"{what}_{channel}": value for channel, value in zip("rgb", values, strict=True)}
    return row | {"colours": colour.colours}


# NumPy has Python parse the header, and Python 3.11 now and then fails to parse in two threads at once ("AST
# constructor recursion depth mismatch", https://github.com/python/cpython/issues/106905).
_parsing = threading.Lock()


def read_array(body: bytes) -> npt.NDArray[Any]:
    """The array of a .npy file, such as a record names or holds; arrays of Python objects are refused.

    Raises:
        ValueError: If it is damaged or no such file.
    """
    try:
        with _parsing:
            array = np.load(BytesIO(body), allow_pickle=False)
    except (EOFError, OSError) as error:
        raise ValueError("not a readable .npy file") from error
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of arrays, not a .npy file")  # noqa: TRY004 - as for all else that is none
    return array


def embedding(stage: StageRecord) -> npt.NDArray[np.float32] | None:
    """The vector that a classify record holds inline, float32 [D]; none if it is missing or damaged."""
    body = stage.inline.get("embedding.npy")
    if body is None:
        return None
    try:
        return np.asarray(read_array(body), np.float32).reshape(-1)
    except ValueError:
        return None
