"""An ``s3://bucket/prefix`` as input: its objects, looked into in parallel if their names do not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from dermbatch.errors import PermanentError
from dermbatch.store import ObjectInfo, ObjectStore, split_uri
from orchestrator.batches.outcomes import thread_pool
from orchestrator.planning.intake.leaf import Object

_LOOKS_AT_A_TIME = 16
_AHEAD = 256
"""Objects of a listing looked into together."""


class Prefix:
    """An ``s3://`` input.

    Args:
        source: The store that it is in.
        uri: As the user gave it.
        in_place: Whether workers read its objects themselves.
    """

    def __init__(self, source: ObjectStore, uri: str, *, in_place: bool) -> None:
        self._source, self._uri, self._in_place = source, uri, in_place
        self._bucket, self._prefix = split_uri(uri)

    def list(self, *, after: str | None = None, again: bool = False) -> Iterator[ObjectInfo]:
        """Its objects in the order of keys.

        Args:
            after: The key to resume after; from the beginning if none is given.
            again: Whether the object with that key is repeated.

        Raises:
            PermanentError: If it cannot be listed; ``empty_prefix`` if there is no object at all.
        """
        # A listing begins after a key; to include the key itself, begin after it without its last character.
        first, found = after or "", after is not None
        try:
            infos = self._source.list(self._bucket, self._prefix, start_after=first[:-1] if again else first)
            for info in infos:
                found = True
                if info.key >= first:
                    yield info
        except PermanentError as error:
            raise PermanentError(f"{self._uri} cannot be listed: {error}", reason=error.reason) from error
        if not found:
            raise PermanentError(f"there is no object under {self._uri}", reason="empty_prefix")

    def leaves(
        self, infos: Iterable[ObjectInfo], wanted: Callable[[Object], bool]
    ) -> Iterator[tuple[str, Object]]:
        """Objects with their keys, looked into if their names do not tell what they are.

        Args:
            infos: The objects.
            wanted: Whether it matters what an object holds.
        """

        def looked_into(leaf: Object) -> tuple[str, Object]:
            if not leaf.told and wanted(leaf):
                leaf.look_into()
            return leaf.file, leaf

        leaves = map(self._leaf, infos)
        # Not by ``in_order``: nearly all of a million objects are recognised by name, and handing each
        # to a thread would cost more than the listing.
        with thread_pool(_LOOKS_AT_A_TIME) as pool:
            while chunk := list(islice(leaves, _AHEAD)):
                told = all(leaf.told for leaf in chunk)
                yield from (map if told else pool.map)(looked_into, chunk)

    def _leaf(self, info: ObjectInfo) -> Object:
        key, prefix = info.key, self._prefix
        below = None if key == prefix and not key.endswith("/") else key[len(prefix) :].lstrip("/")
        return Object(self._source, self._bucket, info, below, in_place=self._in_place)
