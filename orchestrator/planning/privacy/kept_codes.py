"""Codes that can stay: those of the standard, with its own meanings rather than the file's."""

from __future__ import annotations

from functools import cache

from pydicom.dataset import Dataset

from dermbatch.images.dicompolicy import text

_LONGEST_MEANING = 64
_SKIN_SITES = {
    "86381001": "Skin of trunk",
    "281733008": "Skin of part of upper limb",
    "281739007": "Skin of part of lower limb",
}
"""SNOMED CT codes of public skin images that no context group of PS3.16 has."""


@cache
def _meanings(scheme: str) -> dict[str, str]:
    """Code value to meaning, of all context groups of PS3.16."""
    from pydicom.sr.codedict import codes  # noqa: PLC0415 - half a second that only de-identification of DICOM needs

    named = getattr(codes, scheme)
    found = dict(_SKIN_SITES) if scheme == "SCT" else {}
    for keyword in named.dir():
        try:
            code = getattr(named, keyword)
        except (AttributeError, RuntimeError):  # several codes of one name
            continue
        if len(code.meaning) <= _LONGEST_MEANING:
            found[code.value] = code.meaning
    return found


def standard_code(item: Dataset) -> Dataset | None:
    """The code of an item of a code sequence as in the standard; none if the standard does not have it."""
    scheme, value = text(item, "CodingSchemeDesignator"), text(item, "CodeValue")
    if scheme not in ("DCM", "SCT") or value not in _meanings(scheme):
        return None
    return code(value, _meanings(scheme)[value], scheme)


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    """An item of a code sequence (PS3.3, 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
