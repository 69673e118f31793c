"""Selection: which files and objects the user's filters let through."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from fnmatch import translate

from dermbatch.errors import UsageError
from dermbatch.records.asked import Filters


class Selection:
    """Filters, ready to be asked many times.

    Patterns are shell globs as :mod:`fnmatch` has them, case-sensitive, and matched against
    the whole path below the input: ``*`` and ``?`` match slashes too, so ``*.png`` takes PNG files of all folders.

    Args:
        filters: As the user gave them.

    Raises:
        UsageError: If a time has no time zone, or there is no time between ``since`` and ``until``.
    """

    def __init__(self, filters: Filters) -> None:
        self._include = _compiled(filters.include)
        self._exclude = _compiled(filters.exclude)
        self._since, self._until = filters.since, filters.until
        for time in (self._since, self._until):
            if time is not None and time.utcoffset() is None:
                raise UsageError(f"{time.isoformat()} has no time zone; write it as in 2026-03-01T00:00:00+01:00")
        if self._since is not None and self._until is not None and self._since >= self._until:
            raise UsageError("no file can match: --since must be before --until")

    def excludes(self, path: str) -> bool:
        """Whether a pattern of ``exclude`` matches; such an archive need not be opened."""
        return self._exclude is not None and self._exclude.match(path) is not None

    def names(self, paths: Iterable[str], *, archive: bool = False) -> bool:
        """Whether something with these paths is taken: an archive's member also has the archive's path.

        Args:
            paths: Its paths; without any (the user named the file itself) it is taken.
            archive: Whether it is an archive, whose members may be included even if it is not.
        """
        paths = tuple(paths)
        if self._exclude is not None and any(map(self._exclude.match, paths)):
            return False
        return archive or not paths or self._include is None or any(map(self._include.match, paths))

    def times(self, modified: datetime | None) -> bool:
        """Whether something last modified at this time is taken; if the time is unknown, it is."""
        if modified is None:
            return True
        return (self._since is None or self._since <= modified) and (self._until is None or modified < self._until)


def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(translate, patterns))) if patterns else None
