"""ETags seen lately: one that two objects share may be no digest, and then does not tell that content changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime

from dermbatch.store import ObjectInfo

_KEPT = 10_000


class ETags:
    """Which object each was of, of the last ones."""

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
        """Whether the object may be written again unseen: in the second in which it was, under an ETag that stays.

        When its second is over, another time tells of other content.

        Args:
            info: The object, seen before.
            now: By the store's clock.
        """
        shared = not info.etag or self._of.get(info.etag, "") is None
        return shared and info.modified is not None and int(now.timestamp()) <= int(info.modified.timestamp())
