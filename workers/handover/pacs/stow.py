"""A PACS as a destination: one POST of all objects of an image, with limits on time and on what is read.

Not by a client library: see docs/decisions/0015-stow-by-urllib3.md.
"""

from __future__ import annotations

import base64
import ssl
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from io import BytesIO

import urllib3
from pydicom import dcmread
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

from dermbatch import __version__, metrics
from dermbatch.errors import DermbatchError, PacsRefused, PacsUnavailable, TransientError
from dermbatch.images.dicomfile import MEDIA_TYPE
from dermbatch.records.outcome import DicomKind, Sent
from dermbatch.settings import DicomwebSettings
from workers.handover.pacs.reply import judged

_PIECE = 256 * 1024
_MOST_ANSWERED = 1024 * 1024  # bytes of an answer; one instance takes about 300
_LONGEST_WAIT = 300.0
"""Seconds for which a PACS may ask to be let alone (``Retry-After``) at a time."""
_REST = 5.0  # seconds in which a PACS that could not be reached is not asked again by this process


class _Late(Exception):
    """The time for sending is over."""


class Destination:
    """One PACS of the settings. For one thread at a time.

    Args:
        name: Of it in the settings.
        settings: Where it is and how it lets us in.
    """

    def __init__(self, name: str, settings: DicomwebSettings) -> None:
        self.name = name
        self._url = f"{settings.url}/studies"
        self._settings = settings
        self._pool: urllib3.PoolManager | None = None
        self._asked_again = 0.0

    def send(self, objects: Mapping[DicomKind, bytes]) -> Sent:
        """Send objects, all in one request; objects that are there already count as taken.

        Args:
            objects: DICOM files by kind; at least one.

        Raises:
            PacsUnavailable: Where trying again may help.
            PacsRefused: Where it cannot, before something is mended.
        """
        try:
            warnings = self._sent(objects)
        except DermbatchError as error:
            outcome = "unavailable" if isinstance(error, TransientError) else "refused"
            metrics.PACS_OBJECTS.labels(self.name, outcome).inc(len(objects))
            raise
        metrics.PACS_OBJECTS.labels(self.name, "stored").inc(len(objects))
        return Sent(to=self.name, kinds=tuple(objects), warnings=warnings, at=datetime.now(UTC))

    def close(self) -> None:
        """Close connections."""
        if self._pool is not None:
            self._pool.clear()

    def _sent(self, objects: Mapping[DicomKind, bytes]) -> dict[DicomKind, str]:
        if time.monotonic() < self._asked_again:
            left = self._asked_again - time.monotonic()
            raise PacsUnavailable(f"the PACS {self.name!r} could not be reached a moment ago", wait=left)
        uids = {kind: _uid(body) for kind, body in objects.items()}
        try:
            status, body, retry_after = self._post(objects)
        except SSLError as error:
            text = f"no trusted TLS connection to the PACS {self.name!r}; look at its certificate and at CA_FILE"
            raise PacsRefused(text, reason="pacs_untrusted") from error
        except _Late as error:
            raise PacsUnavailable(f"the PACS {self.name!r} took too long") from error
        except (HTTPError, OSError) as error:
            if isinstance(error, NewConnectionError | ConnectTimeoutError):
                # Each image of a batch would hold its slot for as long as connecting may take.
                self._asked_again = time.monotonic() + _REST
            # The name of the error only: its text has the URL.
            raise PacsUnavailable(f"the PACS {self.name!r} does not answer ({type(error).__name__})") from error
        try:
            return judged(self.name, status, body, uids, retry_after)
        except PacsUnavailable as error:
            if error.wait is not None:  # it asks all of us, not this image alone
                self._asked_again = time.monotonic() + min(error.wait, _LONGEST_WAIT)
            raise

    def _post(self, objects: Mapping[DicomKind, bytes]) -> tuple[int, bytes, str | None]:
        if self._pool is None:
            self._pool = self._opened()
        boundary = uuid.uuid4().hex
        pieces = list(_multipart(objects.values(), boundary))
        headers = {
            **self._credentials(),
            "Content-Type": f'multipart/related; type="{MEDIA_TYPE}"; boundary={boundary}',
            "Content-Length": str(sum(map(len, pieces))),
            "Accept": "application/dicom+json",
            "User-Agent": f"dermbatch/{__version__}",
        }
        until = time.monotonic() + self._settings.timeout
        answer = self._pool.request(
            "POST", self._url, body=_in_time(pieces, until), headers=headers, preload_content=False
        )
        try:
            until = time.monotonic() + self._settings.timeout
            # By read1: other ways to read wait for as much as was asked for, however slowly it comes.
            body = b"".join(_in_time(iter(lambda: answer.read1(_PIECE), b""), until, _MOST_ANSWERED))
            return answer.status, body, answer.headers.get("Retry-After")
        finally:
            answer.close()  # where it was not read to its end, the connection cannot be used again
            answer.release_conn()

    def _opened(self) -> urllib3.PoolManager:
        ca_file = self._settings.ca_file
        try:
            trusted = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except OSError as error:
            text = f"the CA_FILE of the PACS {self.name!r} cannot be read: {error.strerror}"
            raise PacsRefused(text, reason="pacs_untrusted") from error
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


class Destinations:
    """All PACS of the settings, each connected when it is first asked for.

    Args:
        settings: By name.
    """

    def __init__(self, settings: Mapping[str, DicomwebSettings]) -> None:
        self._all = {name: Destination(name, one) for name, one in settings.items()}

    def named(self, name: str) -> Destination:
        """The PACS with this name.

        Raises:
            PacsRefused: ``pacs_unknown``, where the settings have none.
        """
        if name not in self._all:
            text = (
                f"the settings of this worker have no PACS {name!r}: set DERMBATCH_DICOMWEB__{name.upper()}__URL"
            )
            raise PacsRefused(text, reason="pacs_unknown")
        return self._all[name]

    def close(self) -> None:
        """Close connections."""
        for destination in self._all.values():
            destination.close()


NOWHERE = Destinations({})
"""No PACS at all."""


def _uid(body: bytes) -> str:
    return str(dcmread(BytesIO(body), specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID)


def _multipart(bodies: Iterable[bytes], boundary: str) -> Iterator[bytes]:
    """``multipart/related`` (PS3.18, section 8.6.1.2.1), in pieces."""
    for body in bodies:
        yield f"--{boundary}\r\nContent-Type: {MEDIA_TYPE}\r\n\r\n".encode()
        for start in range(0, len(body), _PIECE):
            yield body[start : start + _PIECE]
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _in_time(pieces: Iterable[bytes], until: float, most: int | None = None) -> Iterator[bytes]:
    """The pieces, as long as there is time; time-outs of sockets begin anew with every byte."""
    length = 0
    for piece in pieces:
        length += len(piece)
        if time.monotonic() > until or (most is not None and length > most):
            raise _Late
        yield piece
