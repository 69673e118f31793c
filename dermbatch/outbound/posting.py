"""One POST to a system of somebody else: sent and answered in time, and not more read than is wanted.

Not by a client library of each protocol: see docs/decisions/0015-stow-by-urllib3.md.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

from dermbatch import __version__
from dermbatch.settings.destinations import DestinationSettings

PIECE = 256 * 1024
"""Bytes that are sent and read at a time."""


class Unanswered(Exception):
    """There is no answer that can be used; trying again may help. Says so in a sentence without the address.

    Attributes:
        unreached: Whether not even a connection came about.
    """

    def __init__(self, sentence: str, *, unreached: bool = False) -> None:
        super().__init__(sentence)
        self.unreached = unreached


class Untrusted(Exception):
    """No TLS connection can be trusted, or what is to be trusted cannot be read; says so likewise."""


class _Late(Exception):
    """The time for sending or answering is over, or the answer is longer than is wanted."""


@dataclass(frozen=True)
class HttpAnswer:
    """What was answered.

    Attributes:
        status: Of HTTP.
        body: All of it.
        retry_after: The header of that name, as it came.
    """

    status: int
    body: bytes
    retry_after: str | None


class Posting:
    """Posts to one system. For one thread at a time.

    Args:
        settings: Where it is and how it lets us in.
        longest: Bytes of an answer.
        called: What sentences call it, such as "the PACS 'main'".
    """

    def __init__(self, settings: DestinationSettings, longest: int, called: str) -> None:
        self._settings, self._longest, self._called = settings, longest, called
        self._pool: urllib3.PoolManager | None = None

    def post(self, url: str, pieces: Sequence[bytes], headers: Mapping[str, str]) -> HttpAnswer:
        """Post a body.

        Args:
            url: Below the settings' own.
            pieces: Pieces of the body.
            headers: Besides those of login, length and user agent.

        Raises:
            Untrusted: If the connection, or the certificates to trust, have to be looked at by people.
            Unanswered: If there is no answer, or not in time, or one too long.
        """
        try:
            return self._posted(url, pieces, headers)
        except (SSLError, ssl.SSLError) as error:
            text = f"no trusted TLS connection to {self._called}; look at its certificate and at CA_FILE"
            raise Untrusted(text) from error
        except _Late as error:
            raise Unanswered(f"{self._called} took too long") from error
        except (HTTPError, OSError) as error:
            unreached = isinstance(error, NewConnectionError | ConnectTimeoutError)
            # The name of the error only: its text has the URL.
            text = f"{self._called} does not answer ({type(error).__name__})"
            raise Unanswered(text, unreached=unreached) from error

    def close(self) -> None:
        """Close connections."""
        if self._pool is not None:
            self._pool.clear()

    def _posted(self, url: str, pieces: Sequence[bytes], headers: Mapping[str, str]) -> HttpAnswer:
        if self._pool is None:
            self._pool = self._opened()
        all_headers = {
            **self._credentials(),
            "Content-Length": str(sum(map(len, pieces))),
            "User-Agent": f"dermbatch/{__version__}",
            **headers,
        }
        until = time.monotonic() + self._settings.timeout
        answer = self._pool.request(
            "POST", url, body=_in_time(pieces, until), headers=all_headers, preload_content=False
        )
        try:
            until = time.monotonic() + self._settings.timeout
            # By read1: other ways to read wait for as much as was asked for, however slowly it comes.
            body = b"".join(_in_time(iter(lambda: answer.read1(PIECE), b""), until, self._longest))
            return HttpAnswer(answer.status, body, answer.headers.get("Retry-After"))
        finally:
            answer.close()  # where it was not read to its end, the connection cannot be used again
            answer.release_conn()

    def _opened(self) -> urllib3.PoolManager:
        ca_file = self._settings.ca_file
        try:
            trusted = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except OSError as error:
            raise Untrusted(f"the CA_FILE of {self._called} cannot be read: {error.strerror}") from error
        limits = urllib3.Timeout(connect=self._settings.connect_timeout, read=self._settings.timeout)
        return urllib3.PoolManager(ssl_context=trusted, timeout=limits, retries=False)

    def _credentials(self) -> dict[str, str]:
        settings = self._settings
        if settings.token is not None:
            return {"Authorization": f"Bearer {settings.token.get_secret_value()}"}
        if settings.user is not None and settings.password is not None:
            pair = f"{settings.user}:{settings.password.get_secret_value()}"  # UTF-8: RFC 7617, section 2.1
            return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        return {}


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds that ``Retry-After`` asks for, as a number or a date (RFC 9110, 10.2.3); none where it is none."""
    text = (retry_after or "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def is_web_page(body: bytes) -> bool:
    """Whether an answer is a page for people, as of a login or a proxy."""
    return body.lstrip()[:9].lower().startswith((b"<html", b"<!doctype"))


def _in_time(pieces: Iterable[bytes], until: float, most: int | None = None) -> Iterator[bytes]:
    """The pieces, as long as there is time; time-outs of sockets start over with every byte."""
    length = 0
    for piece in pieces:
        length += len(piece)
        if time.monotonic() > until or (most is not None and length > most):
            raise _Late
        yield piece
