"""The query line: Lucene's syntax over the columns of the table.

``probability:[0.2 TO 0.8] AND flag:touches_frame``; a word without a field is looked for in names. Anything not
understood is refused, with its position.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from luqum import tree
from luqum.exceptions import ParseError
from luqum.thread import parse

from desk.problems import Problem
from orchestrator.reporting.table.columns import truths

ALIASES = {"flag": "flags", "class": "label", "model": "classify_model", "note": "notes", "size": "pixels"}
"""What a column may also be called."""

Truth = npt.NDArray[np.bool_]
Column = Callable[[str], "pa.ChunkedArray | None"]
"""Returns a column by its name; none if there is no such column."""

Members = Callable[[str], Truth]
"""Tells which rows are in the set of this name."""

_MOST = 2000
_PLACE = re.compile(r"position (\d+)")
_ANY = "*"


class Query:
    """A parsed query.

    Args:
        text: The query line; empty means everything.

    Raises:
        Problem: 400, with the place, where it is no query.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        if len(text) > _MOST:
            raise _wrong(f"a query has at most {_MOST:,} characters", _MOST)
        try:
            self._tree = parse(text) if self.text else None
        except ParseError as error:
            found = _PLACE.search(str(error))
            place = int(found.group(1)) if found else len(text)
            raise _wrong(f"the query ends too early or is wrong at character {place + 1}", place) from error

    def rows(self, count: int, column: Column, members: Members) -> Truth:
        """Which of the rows are meant.

        Raises:
            Problem: 400, where a field or value cannot be.
        """
        if self._tree is None:
            return np.ones(count, np.bool_)
        return _Evaluation(count, column, members).of(self._tree, None)


class _Evaluation:
    def __init__(self, count: int, column: Column, members: Members) -> None:
        self._count, self._column, self._members = count, column, members

    def of(self, node: Any, field: str | None) -> Truth:
        match node:
            case tree.SearchField():
                return self.of(node.expr, self._known(node))
            case tree.Group() | tree.FieldGroup() | tree.Plus():
                return self.of(node.children[0], field)
            case tree.Not() | tree.Prohibit():
                return ~self.of(node.children[0], field)
            case tree.OrOperation():
                return reduce(np.logical_or, (self.of(child, field) for child in node.children))
            case tree.AndOperation() | tree.UnknownOperation():
                return reduce(np.logical_and, (self.of(child, field) for child in node.children))
            case tree.Word() | tree.Phrase() | tree.Range() | tree.From() | tree.To():
                return self._leaf(node, field or "name", loose=field is None)
        raise _wrong("this kind of query is not supported", _place(node))

    def _known(self, node: tree.SearchField) -> str:
        name = ALIASES.get(node.name, str(node.name))
        if name in {"set", "tag"} or self._column(name) is not None:
            return name
        raise _wrong(f"there is no field {node.name!r}", _place(node))

    def _leaf(self, node: Any, field: str, *, loose: bool) -> Truth:
        if field in {"set", "tag"}:
            name = _text(node)
            return self._members(f"tag-{name}" if field == "tag" else name)
        column = self._column(field)
        if column is None:
            return np.zeros(self._count, np.bool_)
        if isinstance(node, tree.Word) and node.value == _ANY:
            return truths(pc.is_valid(column))
        return _among(column, node, loose=loose)


def _among(column: pa.ChunkedArray, node: Any, *, loose: bool) -> Truth:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_list(kind):
        return _in_lists(column, node)
    if pa.types.is_boolean(kind):
        return truths(pc.equal(column, _yes(node)))
    if pa.types.is_string(kind):
        return _texts(column, node, loose=loose)
    return _between(column, kind, node)


def _texts(column: pa.ChunkedArray, node: Any, *, loose: bool) -> Truth:
    text = unicodedata.normalize("NFD", _text(node))
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    if not text.isascii():  # accented letters can be encoded in two ways, and file names use both
        column = pc.utf8_normalize(column, "NFD")  # Arrow 25 gives this for NFC, too
    text = text.strip("*") if loose else text
    if "*" in text or "?" in text:
        pattern = re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")
        pattern = f"(?s:{pattern})" if loose else f"^(?s:{pattern})$"
        return truths(pc.match_substring_regex(column, pattern, ignore_case=True))
    if loose:
        return truths(pc.match_substring(column, text, ignore_case=True))
    return truths(pc.equal(pc.utf8_lower(column), text.lower()))


def _in_lists(column: pa.ChunkedArray, node: Any) -> Truth:
    if not pa.types.is_string(column.type.value_type):
        raise _wrong("this field cannot be queried", _place(node))
    found = np.zeros(len(column), np.bool_)
    flat = pc.list_flatten(column)
    parents = pc.list_parent_indices(column).to_numpy()
    found[parents[_texts(flat, node, loose=False)]] = True
    return found


def _between(column: pa.ChunkedArray, kind: pa.DataType, node: Any) -> Truth:
    low, high, with_low, with_high = _bounds(node)
    found = truths(pc.is_valid(column))
    if low is not None:
        compare = pc.greater_equal if with_low else pc.greater
        found &= truths(compare(column, _value(low, kind, node)))
    if high is not None:
        compare = pc.less_equal if with_high else pc.less
        found &= truths(compare(column, _value(high, kind, node)))
    return found


def _bounds(node: Any) -> tuple[str | None, str | None, bool, bool]:
    match node:
        case tree.Range():
            low, high = (str(end).strip().strip('"') for end in (node.low, node.high))
            return (
                None if low == _ANY else low,
                None if high == _ANY else high,
                node.include_low,
                node.include_high,
            )
        case tree.From():
            return str(node.a).strip(), None, node.include, True
        case tree.To():
            return None, str(node.a).strip(), True, node.include
    return _text(node), _text(node), True, True


def _value(text: str, kind: pa.DataType, node: Any) -> pa.Scalar:
    try:
        if pa.types.is_timestamp(kind):
            moment = datetime.fromisoformat(text)
            return pa.scalar(moment if moment.tzinfo else moment.replace(tzinfo=UTC), kind)
        number = float(text)
    except ValueError:
        what = "a time such as 2026-03-01" if pa.types.is_timestamp(kind) else "a number"
        raise _wrong(f"{text!r} is not {what}", _place(node)) from None
    return pa.scalar(number, pa.float32() if pa.types.is_float32(kind) else pa.float64())


def _text(node: Any) -> str:
    if isinstance(node, tree.Phrase):
        return str(node.value)[1:-1].replace('\\"', '"')
    if isinstance(node, tree.Word):
        return str(node.value).replace("\\", "")
    raise _wrong("this field has no order; give a word or a phrase", _place(node))


def _yes(node: Any) -> bool:
    text = _text(node).lower()
    if text not in {"true", "false", "yes", "no"}:
        raise _wrong("this field is true or false", _place(node))
    return text in {"true", "yes"}


def _place(node: Any) -> int:
    return int(getattr(node, "pos", None) or 0)


def _wrong(what: str, place: int) -> Problem:
    return Problem(400, "bad_query", what, at={"in": "query", "parameter": "q", "position": place})
