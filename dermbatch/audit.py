"""The audit log: who or what read, wrote, deleted or sent which image data or result, and when.

JSON lines, one an access, in files that are only ever appended to, each line chained to the one before. A read is
noted before its bytes are passed on; a write, deletion or transmission before it happens. What cannot be noted is
not done: see docs/decisions/0016-no-access-without-a-line.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from dermbatch.errors import AuditUnavailable, DermbatchError, ObjectNotFound
from dermbatch.records import chain
from dermbatch.settings import AuditSettings

Action = Literal["read", "write", "copy", "delete", "send", "sign-in", "sign-out", "refuse", "grant", "revoke"]

_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2
_BEFORE = {"write", "copy", "delete", "send"}
_OWN = re.compile(
    r"open/|canaries/|desk/(keys|people)/|batches/[^/]+/(batch\.json|plan\.json|summary\.json|manifest/|failed/)",
    re.ASCII,
)


def file_of(settings: AuditSettings, program: str, day: datetime) -> Path:
    """The file of one program on this machine and one day (UTC)."""
    name = "-".join(re.sub(r"[^\w.]+", "_", part) for part in (program, socket.gethostname()))
    return Path(settings.folder or "") / f"audit-{day:%Y%m%d}-{name}.jsonl"


def _last_digest(today: Path) -> str:
    """The digest that today's file continues from: that of the last line of the program's previous file."""
    pattern = today.name.replace(today.name.split("-")[1], "*", 1)
    earlier = sorted(path for path in today.parent.glob(pattern) if path.name < today.name)
    for path in reversed(earlier):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - chain.TAIL))
            return chain.digest_of(file.read()) or chain.START
    return chain.START


class _Sink:
    """Where lines go: a file of today, or a stream; safe to share between threads and forks."""

    def __init__(self, settings: AuditSettings, program: str, stream: int) -> None:
        self._settings, self._program, self._stream = settings, program, stream
        self._lock = threading.Lock()
        self._day = ""
        self._file = -1
        self._before = chain.START

    def write(self, line: bytes, now: datetime) -> None:
        try:
            with self._lock:
                whole = self._append(self._of(now), line)
        except OSError as error:
            raise AuditUnavailable(f"the audit log cannot be written: {error.strerror}") from error
        if not whole:
            raise AuditUnavailable("the audit log cannot be written: no space is left; free some, or move the log")

    def _append(self, file: int, line: bytes) -> bool:
        """Write a line, in a file as the next of its chain; ``False``, with nothing written, if space is short."""
        if self._settings.folder == "-":
            return os.write(file, line + b"\n") > len(line)
        fcntl.lockf(file, fcntl.LOCK_EX)  # of the process: a pool shares the file, and what it was opened as
        try:
            size = os.fstat(file).st_size
            before = chain.digest_of(os.pread(file, chain.TAIL, max(0, size - chain.TAIL))) if size else None
            text = chain.linked(line, before or self._before, first=before is None)
            if os.write(file, text) == len(text):
                return True
            os.ftruncate(file, size)
            return False
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN)

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file, self._day = -1, ""

    def _of(self, now: datetime) -> int:
        if self._settings.folder == "-":
            return self._stream
        day = f"{now:%Y%m%d}"
        if day != self._day:
            path = file_of(self._settings, self._program, now)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._before = _last_digest(path)
            fresh = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if self._file >= 0:
                os.close(self._file)
            self._file, self._day = fresh, day
        return self._file


class Audit:
    """Notes the accesses of one program.

    Args:
        settings: Where lines go; without a folder nothing is noted.
        program: What the program is called, such as ``worker`` or ``dermbatch submit``.
        command: Whether its standard output is for people: lines for ``-`` go to standard error then.

    Attributes:
        purpose: What is being done, such as ``batch:index``; stands in every line until it is changed.
    """

    def __init__(self, settings: AuditSettings, program: str, *, command: bool = False) -> None:
        self.purpose: str | None = None
        self._sink: _Sink | None = None
        self._pseudonym: Callable[[str], str] | None = None
        self._who: dict[str, str] = {}
        if settings.folder is not None:
            self._sink = _Sink(settings, program, _STANDARD_ERROR if command else _STANDARD_OUTPUT)
            self._who = {"program": program, "host": socket.gethostname(), "user": _user()}

    def under(self, pseudonym: Callable[[str], str] | None) -> Self:
        """The same log, naming what is accessed by a pseudonym; for the originals of de-identified images.

        Args:
            pseudonym: Pseudonym of a URI; none where URIs may be written.
        """
        other = copy(self)
        other._pseudonym = pseudonym
        return other

    def of(self, user: str, purpose: str | None = None) -> Self:
        """The same log, for what this program does on behalf of somebody.

        Args:
            user: Who.
            purpose: What is being done.
        """
        other = copy(self)
        other.purpose = purpose
        other._who = {**self._who, "user": user}
        return other

    def note(
        self,
        action: Action,
        uri: str,
        *,
        size: int | None = None,
        to: str | None = None,
        outcome: str | None = None,
    ) -> None:
        """Note one access.

        Args:
            action: What is done.
            uri: With what: ``s3://bucket/key`` or a path.
            size: Bytes, where known.
            to: Where to, of a copy or transmission.
            outcome: Why it did not succeed, if it did not.

        Raises:
            AuditUnavailable: If it cannot be written.
        """
        if self._sink is None:
            return
        now = datetime.now(UTC)
        named = uri if self._pseudonym is None else f"pseudonym:{self._pseudonym(uri)}"
        fields: dict[str, object] = {"at": now.isoformat(timespec="milliseconds"), "action": action}
        fields |= {"object": named, "bytes": size, "to": to, "outcome": outcome, "for": self.purpose}
        fields |= {**self._who, "process": os.getpid()}
        line = {name: value for name, value in fields.items() if value is not None}
        text = json.dumps(line, separators=(",", ":"), ensure_ascii=False)
        self._sink.write(text.encode("utf-8", "backslashreplace"), now)  # paths need not be UTF-8

    @contextmanager
    def access(
        self, action: Action, bucket: str, key: str, *, ours: bool, size: int | None = None, to: str | None = None
    ) -> Iterator[None]:
        """Around an access of the object store.

        A failed access gets a line that says so, except for objects that are not there. The system's own control
        records
        (orders, manifests, failures and progress) are not noted.

        Args:
            action: What is done.
            bucket: Bucket of the object.
            key: Key of the object.
            ours: Whether the bucket is the system's own for results.
            size: Bytes that are written.
            to: Where to.

        Raises:
            AuditUnavailable: If it cannot be noted.
        """
        if self._sink is None or (ours and _OWN.match(key)):
            yield
            return
        uri = f"s3://{bucket}/{key}"
        if action in _BEFORE:
            self.note(action, uri, size=size, to=to)
        try:
            yield
        except ObjectNotFound:
            raise
        except DermbatchError as error:
            self.note(action, uri, to=to, outcome=error.reason)
            raise
        if action not in _BEFORE:
            self.note(action, uri)

    def close(self) -> None:
        """Close the file; another line would open it again."""
        if self._sink is not None:
            self._sink.close()


NO_AUDIT = Audit(AuditSettings(), "none")
"""Notes nothing."""


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in most containers
        return str(os.getuid())
