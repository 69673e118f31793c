"""ETags seen lately: if two objects share one, it may not be a digest, and then does not show changed content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime

from dermbatch.store import ObjectInfo

_KEPT = 10_000


class ETags:
    """Remembers which object each of the latest ETags belonged to."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, str | None] = OrderedDict()

    def see(self, bucket: str, infos: Iterable[ObjectInfo]) -> None:
        """Note those of some objects."""
        for info in infos:
            if info.etag:
                one = f"{bucket}/{info.key}"
                self._of[info.etag] = one if self._of.get(info.etag, one) == one else None
                self._of.move_to_end(info.etag)
        while len(self._of) > _KEPT:
            self._of.popitem(last=False)

    def may_hide(self, info: ObjectInfo, now: datetime) -> bool:
        """Whether the object could be rewritten unnoticed: within the same second, under an unchanging ETag.

        Once that second has passed, a new time reveals new content.

        Args:
            info: The object, already seen.
            now: By the store's clock.
        """
        shared = not info.etag or self._of.get(info.etag, "") is None
        return shared and info.modified is not None and int(now.timestamp()) <= int(info.modified.timestamp())
