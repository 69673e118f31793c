"""Takes files in under a profile: each becomes a copy without identity; what it was goes into a sealed table."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from threading import Lock

from nacl.public import PublicKey
from nacl.secret import SecretBox
from nacl.utils import random

from dermbatch.bounded.reader import Reader
from dermbatch.errors import UsageError
from dermbatch.images.imagefile import MODULES
from dermbatch.records.asked import Deidentification, Filters, PlanRecord, Position, Refusal
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.planning.privacy.deidentify import Deidentified, deidentify
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from orchestrator.planning.privacy.reidentification import OriginalRow, public_key, write_rows


@dataclass(frozen=True)
class Copy:
    """What takes a file's place.

    Attributes:
        name: What the file is called from here on.
        made: The copy.
    """

    name: str
    made: Deidentified


class Deidentifier:
    """Applies one profile with one salt; safe to share between threads.

    Args:
        profile: What goes and what stays.
        settings: Settings with the salt, the public key, the table's bucket and the largest image.

    Raises:
        UsageError: If there is no salt, or the profile asks for a table and there is no public key.
    """

    def __init__(self, profile: Profile, settings: Settings) -> None:
        self.profile = profile
        self._pseudonyms = Pseudonyms(settings.privacy.salt)
        self._max_pixels = settings.worker.max_pixels
        self._reader = Reader(settings.reading.limits, (deidentify.__module__, *MODULES))
        self._bucket = settings.privacy.bucket
        self._key: PublicKey | None = None
        if profile.reidentification:
            if settings.privacy.public_key is None:
                raise UsageError(
                    f"profile {profile.name!r} asks for a re-identification table: set "
                    f"DERMBATCH_PRIVACY__PUBLIC_KEY (dermbatch keys new creates a pair)"
                )
            self._key = public_key(settings.privacy.public_key)
        self._rows: dict[int, OriginalRow] = {}
        self._lock = Lock()

    def pseudonym(self, original: str) -> str:
        """The name that audit logs use for an original."""
        return self._pseudonyms.name(original)

    @property
    def record(self) -> Deidentification:
        """What a batch's record says about de-identification."""
        return Deidentification(
            profile=self.profile.name,
            dates=self.profile.dates,
            uids=self.profile.uids,
            burned_in_text=self.profile.burned_in_text,
            reidentification=self.profile.reidentification,
            salt=self._pseudonyms.fingerprint,
        )

    def copy(self, data: bytes) -> Copy:
        """A file without identity.

        Args:
            data: The whole file.

        Raises:
            BadInput: If it takes too much to read, or is refused as by
                :func:`~orchestrator.planning.privacy.deidentify.deidentify`.
        """
        made = self._reader.run(deidentify, data, self.profile, self._pseudonyms, max_pixels=self._max_pixels)
        name = f"{self._pseudonyms.content(data)}{made.suffix}"
        return Copy(f"{made.patient}/{name}" if made.patient else name, made)

    def refused_name(self, name: str) -> str:
        """The name of a file that was not taken in."""
        return f"refused/{self._pseudonyms.name(name)}"

    def note(self, index: int, name: str, original: str, made: Deidentified | None = None) -> None:
        """Remember what an image was, for the table.

        Args:
            index: Index of the image in its batch.
            name: What it is called now.
            original: What it was called.
            made: Its copy; none if it was refused.
        """
        if self._key is None:
            return
        row = OriginalRow(index=index, name=name, original=original)
        if made is not None:
            row = row.model_copy(update={"pseudonym": made.patient, **asdict(made.original)})
        with self._lock:
            self._rows[index] = row

    def write_originals(self, store: ObjectStore, batch: str, first: int, end: int) -> None:
        """Seal and write what images ``first`` to ``end - 1`` were, before their manifest is written.

        Raises:
            StoreUnavailable: If the store fails.
            StoreRefused: If it may not be written.
        """
        if self._key is None:
            return
        with self._lock:
            rows = [self._rows.pop(index) for index in range(first, end) if index in self._rows]
        if rows:
            write_rows(store, self._bucket or store.bucket, batch, rows, self._key)

    def hidden(self, record: PlanRecord) -> PlanRecord:
        """A plan's record with its inputs and patterns, which users type, made unreadable."""
        filters = Filters(
            include=tuple(map(self._pseudonyms.name, record.filters.include)),
            exclude=tuple(map(self._pseudonyms.name, record.filters.exclude)),
            since=record.filters.since,
            until=record.filters.until,
        )
        inputs = tuple(map(self._pseudonyms.name, record.inputs))
        return record.model_copy(update={"inputs": inputs, "filters": filters})

    def locked(self, position: Position) -> Position:
        """A position whose path or key only the holder of the salt can read."""
        if position.after is None:
            return position
        box = SecretBox(self._pseudonyms.key("position"))
        after = b64encode(box.encrypt(position.after.encode("utf-8", "surrogateescape"), random(box.NONCE_SIZE)))
        return position.model_copy(update={"after": after.decode()})

    def unlocked(self, position: Position) -> Position:
        """The position that was locked, readable again."""
        if position.after is None:
            return position
        after = SecretBox(self._pseudonyms.key("position")).decrypt(b64decode(position.after))
        return position.model_copy(update={"after": after.decode("utf-8", "surrogateescape")})


def unnamed(refusal: Refusal) -> Refusal:
    """A refusal whose message quotes nothing; a format may be named, anything else might name a file."""
    if refusal.reason == "unsupported_format":
        return refusal
    return Refusal(reason=refusal.reason, message=f"refused before it was read ({refusal.reason})")
