"""What an institution knows about its images beyond the records: lesion, person, site, diagnosis, date."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, UsageError
from dermbatch.store import ObjectStore

COLUMNS = ("image", "lesion", "patient", "site", "diagnosis", "taken")
_CSV = "text/csv; charset=utf-8"


@dataclass(frozen=True)
class Facts:
    """What is known about one image; unknown fields are none."""

    lesion: str | None = None
    patient: str | None = None
    site: str | None = None
    diagnosis: str | None = None
    taken: date | None = None


NOTHING = Facts()


class KnownFacts:
    """Facts by image: found by the digest of its file, else by the stem of its name.

    Args:
        known: By what the column ``image`` has.
    """

    def __init__(self, known: Mapping[str, Facts]) -> None:
        self._known = known

    def __bool__(self) -> bool:
        return bool(self._known)

    def of(self, sha256: str, name: str) -> Facts:
        """What is known of an image."""
        if not self._known:
            return NOTHING
        stem = name.rpartition("/")[2].rpartition(".")[0] or name
        return self._known.get(sha256) or self._known.get(stem) or NOTHING


def parse(text: str, where: str) -> KnownFacts:
    """The facts of a CSV file with a column ``image`` and others of :data:`COLUMNS`.

    Raises:
        UsageError: If it is no such file; the sentence names the line.
    """
    rows = csv.DictReader(io.StringIO(text), strict=True)
    try:
        unknown = set(rows.fieldnames or ()) - set(COLUMNS)
        if "image" not in (rows.fieldnames or ()) or unknown:
            raise UsageError(
                f"{where}: its first line must name columns of {', '.join(COLUMNS)}, image among them"
            )
        return KnownFacts(dict(_facts(rows, where)))
    except csv.Error as error:
        raise UsageError(f"{where}, line {rows.line_num}: {error}") from error


def _facts(rows: csv.DictReader[str], where: str) -> Iterator[tuple[str, Facts]]:
    seen: set[str] = set()
    for row in rows:
        image = (row["image"] or "").strip()
        at = f"{where}, line {rows.line_num}"
        if not image or None in row or image in seen:
            raise UsageError(f"{at}: it names no image, repeats one of an earlier line, or has too many fields")
        seen.add(image)
        values = {name: (row.get(name) or "").strip() or None for name in COLUMNS[1:-1]}
        yield image, Facts(**values, taken=_date(row.get("taken"), at))


def _date(text: str | None, at: str) -> date | None:
    if not text or not text.strip():
        return None
    try:
        return datetime.fromisoformat(text.strip()).date()
    except ValueError as error:
        raise UsageError(f"{at}: taken is not a date like 2026-03-02") from error


def read_facts(store: ObjectStore, tenant: str | None = None) -> tuple[KnownFacts, str | None]:
    """The facts about a tenant's images, or about those of no tenant, and their ETag."""
    key = layout.similar_facts(tenant)
    try:
        body, etag = store.read(store.bucket, key)
    except ObjectNotFound:
        return KnownFacts({}), None
    return parse(body.decode(errors="replace"), key), etag


def write_facts(store: ObjectStore, text: str, tenant: str | None = None) -> None:
    """Replace the facts."""
    store.put(layout.similar_facts(tenant), text.encode(), _CSV)
