"""Dates and times of DICOM headers in the standard form (PS3.5, 6.2), from the forms that exporters use."""

from __future__ import annotations

import re
from datetime import date

_DATE = re.compile(r"(\d{4})([-./:]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"([01]\d|2[0-3])(?:(:?)([0-5]\d)(?:\2([0-5]\d|60)(\.\d{1,6})?)?)?")


def date_of(text: str) -> str:
    """A date as DA, ``YYYYMMDD``: a day of the calendar, from 1800 on; '' for everything else.

    Args:
        text: That, or with ``.``, ``-``, ``/`` or ``:`` between year, month and day.
    """
    found = _DATE.fullmatch(text.strip())
    if found is None or not "1800" <= found[1] < "3000":
        return ""
    try:
        return date(int(found[1]), int(found[3]), int(found[4])).strftime("%Y%m%d")
    except ValueError:
        return ""


def time_of(text: str) -> str:
    """A time as TM: ``HH``, ``HHMM``, ``HHMMSS``, or with a fraction of up to six digits; '' for anything else.

    Args:
        text: That, or with ``:`` between its parts. A second may be the 60th: a leap second.
    """
    found = _TIME.fullmatch(text.strip())
    return "" if found is None else "".join(found[part] or "" for part in (1, 3, 4, 5))
