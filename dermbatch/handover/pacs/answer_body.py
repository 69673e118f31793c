"""The body of a STOW-RS answer as servers really write it (PS3.18, annex I.2; PS3.19).

The standard's own form is one DICOM JSON object. Servers also send arrays of them, unrequested XML, either of them
in a multipart body, numbers as text, and failures that name no instance.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLParser

_FAILED = ("00081198", "FailedSOPSequence", "0008119A", "OtherFailuresSequence")
_STORED = ("00081199", "ReferencedSOPSequence", "0008114A", "ReferencedInstanceSequence")
_UID = ("00081155", "ReferencedSOPInstanceUID")
_FAILURE = ("00081197", "FailureReason")
_WARNING = ("00081196", "WarningReason")
_DEPTH = 64
"""Depth of nested elements; anything deeper is an attempt to exhaust the reader."""


class Unreadable(ValueError):
    """The body begins like JSON or XML, but is not."""


@dataclass(frozen=True)
class AnswerBody:
    """The body of an answer.

    Attributes:
        stored: SOP Instance UIDs that were taken.
        warnings: Warning Reason of some of them; none if the server gave no number.
        failed: Failure Reason of those that were not taken; likewise.
        nameless: Failure Reasons of instances that the server does not name.
    """

    stored: frozenset[str]
    warnings: Mapping[str, int | None]
    failed: Mapping[str, int | None]
    nameless: tuple[int | None, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether it says nothing about any instance."""
        return not (self.stored or self.failed or self.nameless)


def parse(body: bytes) -> AnswerBody | None:
    """The parsed body; none if it is neither JSON nor XML, and so says nothing that can be read.

    Raises:
        Unreadable: If it begins as one of them and is damaged, so that failures in it may be lost.
    """
    text = _inside(body).strip().removeprefix(b"\xef\xbb\xbf")
    if text[:1] in (b"{", b"["):
        return _reply(_from_json(text))
    if text[:1] == b"<" and text[:5].lower() != b"<html" and text[:9].lower() != b"<!doctype":
        return _reply(_from_xml(text))
    return None


def _inside(body: bytes) -> bytes:
    """The first part of a multipart body (RFC 2046); any other body whole."""
    if not body.lstrip().startswith(b"--"):
        return body
    boundary, _, rest = body.lstrip().partition(b"\n")
    _, _, content = rest.replace(b"\r\n", b"\n").partition(b"\n\n")
    return content.partition(b"\n" + boundary.rstrip())[0]


_Items = Iterable[Mapping[str, Any]]


def _from_json(text: bytes) -> list[Mapping[str, Any]]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable from error
    datasets = document if isinstance(document, list) else [document]
    return [one for one in datasets if isinstance(one, dict)]


def _from_xml(text: bytes) -> list[Mapping[str, Any]]:
    """The Native DICOM Model (PS3.19, A.1) as if it were JSON; no document type, so no entities are made."""
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise Unreadable
    parser = XMLParser()  # noqa: S314 - nothing of a document type is let through
    try:
        parser.feed(text)
        return [_dataset(parser.close())]
    except (ParseError, RecursionError) as error:
        raise Unreadable from error


def _dataset(element: Element, depth: int = 0) -> dict[str, Any]:
    if depth > _DEPTH:
        raise Unreadable
    found: dict[str, Any] = {}
    for child in element:
        if _local(child) != "DicomAttribute":
            continue
        items = [_dataset(item, depth + 1) for item in child if _local(item) == "Item"]
        values = [value.text or "" for value in child if _local(value) == "Value"]
        found[child.get("tag", "").upper()] = {"Value": items or values}
    return found


def _local(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _reply(datasets: _Items) -> AnswerBody:
    stored: set[str] = set()
    warnings: dict[str, int | None] = {}
    failed: dict[str, int | None] = {}
    nameless: list[int | None] = []
    for dataset in datasets:
        for item in _items(dataset, _STORED):
            stored.add(uid := _text(item, _UID))
            if any(name in item for name in _WARNING):
                warnings[uid] = _number(_text(item, _WARNING))
        for item in _items(dataset, _FAILED):
            reason = _number(_text(item, _FAILURE))
            if uid := _text(item, _UID):
                failed[uid] = reason
            else:
                nameless.append(reason)
    return AnswerBody(frozenset(stored - {""}), warnings, failed, tuple(nameless))


def _items(dataset: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    for name in names:
        for item in _values(dataset.get(name)):
            # A malformed item still counts: no failure may be lost.
            yield item if isinstance(item, dict) else {}


def _values(element: object) -> list[Any]:
    value = element.get("Value") if isinstance(element, dict) and "Value" in element else element
    if isinstance(value, dict):
        return [] if set(value) <= {"vr"} else [value]
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(item: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        for value in _values(item.get(name)):
            if isinstance(value, str | int):
                return str(value).strip(" \0")
    return ""


def _number(text: str) -> int | None:
    """A reason: decimal as the standard has it, or hexadecimal as people write it, ``0xA777`` or ``A777H``."""
    if text.isdecimal():
        return int(text) if int(text) <= 0xFFFF else None
    try:
        number = int(text.lower().removesuffix("h"), 16)
    except ValueError:
        return None
    return number if 0 <= number <= 0xFFFF else None
