"""A structured report (DICOM PS3.3, A.35) as nested lines of text."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dermbatch.errors import RecordDamaged


@dataclass(frozen=True)
class Item:
    """A content item: what it is called, what it says, and what it contains."""

    name: str
    value: str
    items: tuple[Item, ...]


def content(body: bytes) -> Item:
    """The report's content tree.

    Raises:
        RecordDamaged: If it is not a DICOM file.
    """
    try:
        return _item(pydicom.dcmread(BytesIO(body)))
    except (InvalidDicomError, AttributeError, ValueError, EOFError) as error:
        raise RecordDamaged("the structured report is damaged") from error


def _item(item: Dataset) -> Item:
    names = item.get("ConceptNameCodeSequence") or []
    name = str(names[0].CodeMeaning) if names else str(item.get("ValueType", ""))
    return Item(name, _value(item), tuple(_item(one) for one in item.get("ContentSequence") or []))


def _value(item: Dataset) -> str:
    match item.get("ValueType"):
        case "NUM" if item.get("MeasuredValueSequence"):
            measured = item.MeasuredValueSequence[0]
            units = measured.get("MeasurementUnitsCodeSequence") or []
            unit = str(units[0].CodeValue) if units else ""
            return f"{measured.NumericValue} {'' if unit == '1' else unit}".strip()
        case "CODE":
            return str(item.ConceptCodeSequence[0].CodeMeaning)
        case "IMAGE" | "COMPOSITE":
            return str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        case "PNAME":
            return str(item.PersonName)
    return str(next((item.get(field) for field in ("TextValue", "UID", "DateTime", "Date") if field in item), ""))
