"""The inbox: objects that notifications have announced, until the watcher looks at them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Sequence
from itertools import islice

from orchestrator.watching.news.events import ObjectEvent


class Inbox:
    """Events in order of arrival, each object once; safe to share between threads.

    Args:
        room: Most objects that it holds.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._events: dict[ObjectEvent, None] = {}
        self._arrived = threading.Condition()

    def put(self, events: Sequence[ObjectEvent]) -> None:
        """Keep events.

        Raises:
            queue.Full: If there is no room for all of them; then none is kept.
        """
        with self._arrived:
            new = [event for event in dict.fromkeys(events) if event not in self._events]
            if len(self._events) + len(new) > self._room:
                raise queue.Full
            self._events.update(dict.fromkeys(new))
            self._arrived.notify_all()

    def put_back(self, events: Iterable[ObjectEvent]) -> None:
        """Put back events that could not be handled, before all others and regardless of room."""
        with self._arrived:
            self._events = {**dict.fromkeys(events), **self._events}

    def take(self, most: int) -> list[ObjectEvent]:
        """Take out up to this many, in order of arrival."""
        with self._arrived:
            taken = list(islice(self._events, most))
            for event in taken:
                del self._events[event]
            return taken

    def wait(self, seconds: float) -> None:
        """Wait until there is something, at most this many seconds."""
        with self._arrived:
            if not self._events:
                self._arrived.wait(seconds)
