"""A chaos proxy: it stands before the real S3 server and, when told to, fails as networks and stores do.

It is a stand-in for a bad network and a bad store only; what is stored is stored by the real server behind it.
It also keeps count of what that server really wrote, so that "written twice" is seen, not inferred.

Run as a program::

    python -m benchmarks.killloop.proxy PORT UPSTREAM_PORT LOG

``POST /-/chaos`` with a :class:`Mood` as JSON sets how it behaves; ``GET /-/chaos`` tells the mood and how many
records of outcomes the server has written. Each successful PUT of a record of an outcome is a line of ``LOG``
(:class:`WrittenRecord`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

CONTROL = "/-/chaos"
_HOST = "127.0.0.1"
_HEAD_LIMIT = 1024 * 1024
_BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@dataclass(frozen=True)
class Mood:
    """How the proxy treats requests.

    Args:
        kind: ``fair`` passes all on; ``error`` answers 500 or 503, half of the time after the server has done what
            was asked; ``slow`` waits first; ``cut`` breaks the connection in the middle of the request's or the
            answer's body.
        share: Share of requests that are treated so, 0 to 1.
        seconds: The longest wait of ``slow``.
    """

    kind: str = "fair"
    share: float = 0.0
    seconds: float = 2.0


@dataclass(frozen=True)
class WrittenRecord:
    """A record that the server has written: key with bucket, digest, and whether the PUT was conditional."""

    key: str
    sha256: str
    conditional: bool


def written(log: Path) -> Iterator[WrittenRecord]:
    """The lines of a log, in order; a last one that was cut off is left out."""
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield WrittenRecord(**json.loads(line))


@dataclass
class _Message:
    """A request or an answer: first line, headers as they came, body."""

    start: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def raw(self, *, without: str = "") -> bytes:
        lines = [self.start, *(f"{key}: {value}" for key, value in self.headers if key.lower() != without)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + self.body


async def _read_head(reader: asyncio.StreamReader) -> _Message:
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return _Message(start, [(key, value.strip()) for key, _, value in pairs])


async def _read_body(reader: asyncio.StreamReader, message: _Message) -> None:
    if (length := message.header("content-length")) is not None:
        message.body = await reader.readexactly(int(length))
    elif "chunked" in (message.header("transfer-encoding") or ""):
        while True:
            size = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(size.split(b";")[0], 16) + 2)
            message.body += size + chunk
            if chunk == b"\r\n":
                return


def _answer(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} Chaos\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Proxy:
    """One proxy; :meth:`serve` runs it.

    Args:
        upstream: Port of the real server on 127.0.0.1.
        log: Where records that were written are noted.
        random: Decides which requests are struck, and how.
    """

    upstream: int
    log: TextIO
    random: random.Random = field(default_factory=random.Random)
    mood: Mood = field(default_factory=Mood, init=False)
    records: int = field(default=0, init=False)

    async def serve(self, port: int) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._connection, _HOST, port, limit=_HEAD_LIMIT)
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection and its own to the server, for as many requests as it sends."""
        behind: asyncio.StreamWriter | None = None
        with suppress(*_BROKEN):
            try:
                answers, behind = await asyncio.open_connection(_HOST, self.upstream, limit=_HEAD_LIMIT)
                while await self._exchange(reader, writer, answers, behind):
                    pass
            finally:
                for end in (writer, behind):
                    if end is not None:
                        end.close()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        behind: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; false where the connection is to end."""
        request = await _read_head(reader)
        method, path, _ = request.start.split(" ", 2)
        if request.header("expect"):  # the body is read here, so the word is given here
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await _read_body(reader, request)
        if path.startswith(CONTROL):
            writer.write(self._control(method, request.body))
            await writer.drain()
            return True
        kind = self.mood.kind if self.random.random() < self.mood.share else "fair"
        early = self.random.random() < 0.5
        if kind == "slow":
            await asyncio.sleep(self.random.uniform(0, self.mood.seconds))
        if kind == "error" and early:
            writer.write(_answer(self.random.choice((500, 503)), b""))
            await writer.drain()
            return True
        raw = request.raw(without="expect")
        if kind == "cut" and early:
            behind.write(raw[: len(raw) - len(request.body) // 2 - 1])
            await behind.drain()
            return False
        behind.write(raw)
        await behind.drain()
        answer = await _read_head(answers)
        status = int(answer.start.split(" ", 2)[1])
        if method != "HEAD" and status not in (204, 304):
            await _read_body(answers, answer)
        self._note(method, path, request, status)
        if kind == "error":
            writer.write(_answer(500, b""))
        elif kind == "cut":
            whole = answer.raw()
            writer.write(whole[: len(whole) - len(answer.body) // 2 - 1])
            await writer.drain()
            return False
        else:
            writer.write(answer.raw())
        await writer.drain()
        return "close" not in (answer.header("connection") or "").lower()

    def _note(self, method: str, path: str, request: _Message, status: int) -> None:
        key = unquote(path.partition("?")[0]).lstrip("/")
        if method != "PUT" or status // 100 != 2 or not ("/results/" in key or "/failed/" in key):
            return
        self.records += 1
        digest = hashlib.sha256(request.body).hexdigest()
        line = WrittenRecord(key, digest, request.header("if-none-match") is not None)
        self.log.write(json.dumps(asdict(line)) + "\n")
        self.log.flush()

    def _control(self, method: str, body: bytes) -> bytes:
        if method == "POST":
            self.mood = Mood(**json.loads(body))
        return _answer(200, json.dumps({**asdict(self.mood), "records": self.records}).encode())


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM."""
    port, upstream, log = int(arguments[0]), int(arguments[1]), Path(arguments[2])
    with log.open("a", encoding="utf-8") as lines:
        asyncio.run(Proxy(upstream, lines).serve(port))


if __name__ == "__main__":
    main(sys.argv[1:])
