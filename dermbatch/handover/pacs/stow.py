"""A PACS as a destination: one POST with all objects of an image, with limits on time and answer size.

Why without a client library: docs/decisions/0015-stow-by-urllib3.md.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from io import BytesIO

from pydicom import dcmread

from dermbatch import metrics
from dermbatch.errors import DermbatchError, PacsRefused, PacsUnavailable, TransientError
from dermbatch.handover.pacs.judging import judged
from dermbatch.images.dicomfile import MEDIA_TYPE
from dermbatch.outbound.posting import PIECE, HttpAnswer, Posting, Unanswered, Untrusted
from dermbatch.records.outcome import DicomKind, Sent
from dermbatch.settings.destinations import DicomwebSettings

_MOST_ANSWERED = 1024 * 1024  # bytes of an answer; one instance takes about 300
_LONGEST_WAIT = 300.0
"""The longest time in seconds for which a PACS may ask to be left alone (``Retry-After``)."""
_REST = 5.0  # seconds in which a PACS that could not be reached is not asked again by this process


class Destination:
    """One PACS of the settings. For one thread at a time.

    Args:
        name: Its name in the settings.
        settings: Where it is and how it lets us in.
    """

    def __init__(self, name: str, settings: DicomwebSettings) -> None:
        self.name = name
        self._url = f"{settings.url}/studies"
        self._posting = Posting(settings, _MOST_ANSWERED, f"the PACS {name!r}")
        self._asked_again = 0.0

    def send(self, objects: Mapping[DicomKind, bytes]) -> Sent:
        """Send objects, all in one request; objects that are there already count as taken.

        Args:
            objects: DICOM files by kind; at least one.

        Raises:
            PacsUnavailable: If trying again may help.
            PacsRefused: If it cannot help until something is fixed.
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
        self._posting.close()

    def _sent(self, objects: Mapping[DicomKind, bytes]) -> dict[DicomKind, str]:
        if time.monotonic() < self._asked_again:
            left = self._asked_again - time.monotonic()
            raise PacsUnavailable(f"the PACS {self.name!r} could not be reached a moment ago", wait=left)
        uids = {kind: _uid(body) for kind, body in objects.items()}
        try:
            answer = self._post(objects)
        except Untrusted as error:
            raise PacsRefused(str(error), reason="pacs_untrusted") from error
        except Unanswered as error:
            if error.unreached:
                # Each image of a batch would hold its slot for as long as connecting may take.
                self._asked_again = time.monotonic() + _REST
            raise PacsUnavailable(str(error)) from error
        try:
            return judged(self.name, answer.status, answer.body, uids, answer.retry_after)
        except PacsUnavailable as error:
            if error.wait is not None:  # it asks all senders to wait, not just this image
                self._asked_again = time.monotonic() + min(error.wait, _LONGEST_WAIT)
            raise

    def _post(self, objects: Mapping[DicomKind, bytes]) -> HttpAnswer:
        boundary = uuid.uuid4().hex
        headers = {
            "Content-Type": f'multipart/related; type="{MEDIA_TYPE}"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        return self._posting.post(self._url, list(_multipart(objects.values(), boundary)), headers)


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
            PacsRefused: ``pacs_unknown``, if the settings have none.
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
"""Without any PACS."""


def _uid(body: bytes) -> str:
    return str(dcmread(BytesIO(body), specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID)


def _multipart(bodies: Iterable[bytes], boundary: str) -> Iterator[bytes]:
    """``multipart/related`` (PS3.18, section 8.6.1.2.1), in pieces."""
    for body in bodies:
        yield f"--{boundary}\r\nContent-Type: {MEDIA_TYPE}\r\n\r\n".encode()
        for start in range(0, len(body), PIECE):
            yield body[start : start + PIECE]
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
