"""uvicorn's HTTP for a port that strangers reach: it waits for nobody for ever, and holds few connections."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS = 5.0
"""Seconds in which the head of a request has to be there, counted from its connection or the answer before it.
uvicorn itself waits for ever for the first one, and for the next one once a byte of it has come."""

CONNECTIONS = 128
"""At a time. Further ones are closed unheard: whoever holds these is done with in seconds."""


class Impatient(H11Protocol):
    """One connection."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Listen to it, if there is room."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Go on reading a request."""
        super().data_received(data)
        if self._answering:
            self._expect_nothing()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self._answering:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more."""
        self._expect_nothing()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._expect_nothing()
        self._late = self.loop.call_later(HEADERS, self.transport.abort)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
