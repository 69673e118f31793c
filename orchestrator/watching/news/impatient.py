"""uvicorn's HTTP for a port that strangers can reach: it never waits for ever, and holds few connections."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS = 5.0
"""Seconds within which the head of a request must arrive, counted from the connection or the previous answer.
uvicorn itself waits for ever for the first one, and for later ones once a byte has come."""

EXCHANGE = 30.0
"""Seconds from a request's head to the end of its answer, longer than any takes. uvicorn itself waits for ever for
clients that do not read their answers."""

CONNECTIONS = 128
"""Most connections at a time. For a further one, the one that has kept us waiting longest is closed."""


class Impatient(H11Protocol):
    """One connection."""

    _late: asyncio.TimerHandle | None = None
    _waiting_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept it, closing another one if there is no room."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            (self._slowest() or self).drop()
        if not transport.is_closing():
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Go on reading a request."""
        waited_for_head = not self._answering
        super().data_received(data)
        if waited_for_head and self._answering:
            self._limit(EXCHANGE)

    def on_response_complete(self) -> None:
        """Wait for the next request, or continue with one that has already arrived."""
        super().on_response_complete()
        if self._answering:
            self._limit(EXCHANGE)
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more."""
        self._expect_nothing()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close it at once, whatever is in transit."""
        self.connections.discard(self)  # now: its end is reported later, and more may arrive until then
        self.transport.abort()

    def _slowest(self) -> Impatient | None:
        """The other one that has been waited for longest, for a head or a body; none where all are answered."""
        others = [one for one in self.connections if isinstance(one, Impatient) and one is not self]
        late = [one for one in others if not one._answering or one.cycle.more_body]
        return min(late, key=lambda one: one._waiting_since, default=None)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._limit(HEADERS)

    def _limit(self, seconds: float) -> None:
        self._expect_nothing()
        self._waiting_since = self.loop.time()
        self._late = self.loop.call_later(seconds, self.transport.abort)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
