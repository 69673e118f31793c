"""Images in flight: each move is one script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from dermbatch.ledger.batches import Kind
from dermbatch.ledger.connection import (
    CLOCK,
    COUNTS,
    FLIGHT,
    INFLIGHT,
    JOBS,
    STATES,
    WAKE,
    Connection,
    batch_of,
    bitmaps_of,
    milliseconds,
    reasons_of,
    rows_of,
    sorted_errors,
)
from dermbatch.ledger.queue import LANES
from dermbatch.records.asked import ImageJob, Lane
from dermbatch.settings import LedgerSettings

_SLACK = 5.0
"""Seconds. A time further ahead than the longest that is ever set, by more than this, is from before the clock was
set back."""


MOST_DELIVERIES = 3
"""How often a message that cannot be read is delivered before its image is recorded as failed."""


MOST_ROWS = 5000
"""Most rows of a batch's table that wait in Redis, some 45 MB; for images beyond, closing reads the records."""


@dataclass(frozen=True)
class ImageRef:
    """An image, as the ledger names it.

    Attributes:
        batch: Its batch.
        index: Its position there.
    """

    batch: str
    index: int

    @classmethod
    def named(cls, member: str) -> Self:
        """From ``batch:index``."""
        batch, _, index = member.rpartition(":")
        return cls(batch, int(index))

    @property
    def member(self) -> str:
        """``batch:index``."""
        return f"{self.batch}:{self.index}"


@dataclass(frozen=True)
class Message:
    """A job in the form in which it is queued.

    Attributes:
        job: The image to process.
        queue: Name of the queue.
        payload: The whole message, job included, as the queue's consumers read it.
    """

    job: ImageJob
    queue: str
    payload: str


@dataclass(frozen=True)
class Claim:
    """A worker's hold on an image.

    Attributes:
        job: The image.
        owner: Name of the holder, unique to this claim.
        attempt: Number of this attempt, from 1.
        transients: Transient failures so far.
        waited: Seconds since the image was first queued.
        lane: The lane it was queued in.
    """

    job: ImageJob
    owner: str
    attempt: int
    transients: int = 0
    waited: float = 0.0
    lane: Lane = "bulk"


@dataclass(frozen=True)
class Due:
    """An image that was due and has already been moved on or queued again (``requeue.lua``)."""

    image: ImageRef
    payload: str
    why: Literal["expired", "resend", "poison"]
    attempts: int
    lease_expired: bool


class Images:
    """The images in flight. Methods are atomic, and raise :class:`LedgerUnavailable` if Redis does not answer."""

    def __init__(self, connection: Connection, settings: LedgerSettings) -> None:
        self._redis, self._run = connection.redis, connection.run
        self._settings = settings

    def enqueue(self, messages: Sequence[Message], *, next_index: int | None = None) -> int:
        """Put images of one batch in flight and their messages into one queue.

        Args:
            messages: All of one batch and for one queue.
            next_index: From now on, the first index of the batch that has never been queued.

        Returns:
            How many were added: images that are finished or in flight are not added again.

        Raises:
            LedgerUnavailable: With reason ``ledger_full`` if Redis has no memory left; nothing was changed then.
        """
        if not messages:
            return 0
        batch, queue = messages[0].job.batch, messages[0].queue
        names = [*FLIGHT, *bitmaps_of(batch), batch_of(batch), queue]
        start = "" if next_index is None else next_index
        args: list[str | int] = [milliseconds(self._settings.queued_look), batch, start]
        for message in messages:
            args += [message.job.index, message.payload]
        return cast(int, self._run("enqueue", names, args))

    def claim(self, job: ImageJob, owner: str) -> Claim | Literal["taken", "finished", "unknown"]:
        """Claim an image for this owner, for the length of a lease; returns the claim, or why there is none."""
        names = [INFLIGHT, STATES, *bitmaps_of(job.batch)]
        status, *details = cast(list[Any], self._run("claim", names, [job.member, job.index, owner, self._lease]))
        if status != "claimed":
            return cast(Literal["taken", "finished", "unknown"], status)
        attempt, transients, waited, queue = details
        return Claim(job, owner, attempt, transients, waited / 1000, LANES[queue])

    def heartbeat(self, claim: Claim) -> bool:
        """Extend the lease; ``False`` if the claim is no longer this owner's."""
        args: list[str | int] = [claim.job.member, claim.owner, self._lease]
        return self._run("heartbeat", [INFLIGHT, STATES], args) == 1

    def finish(
        self,
        job: ImageJob | ImageRef,
        owner: str,
        outcome: Literal["done", "failed"],
        reason: str = "",
        *,
        row: str = "",
        kind: Kind | None = None,
        seconds: float = 0.0,
    ) -> bool:
        """Note an outcome whose record has been written; ``False`` if a failure came too late to count.

        Args:
            job: The image.
            owner: Owner of the claim; a failure counts only from the owner.
            outcome: What kind of record was written.
            reason: Reason code of a failure.
            row: The image's row of the table, made of the record in the store; dropped if too many are waiting.
            kind: What kind of work the image was; not counted if missing.
            seconds: How long a worker spent on it.
        """
        batch = job.batch
        names = [*FLIGHT, *bitmaps_of(batch), reasons_of(batch), batch_of(batch), rows_of(batch), WAKE]
        args: list[str | int] = [job.member, job.index, owner, outcome, reason, job.batch, row, MOST_ROWS]
        args += [kind or "", milliseconds(seconds)]
        return self._run("finish", names, args) == 1

    def postpone(self, claim: Claim, pause: float, *, counted: bool = True) -> int:
        """Give an image back, to be queued again after ``pause`` seconds.

        Args:
            claim: The worker's hold on it.
            pause: Seconds.
            counted: Whether this counts as a transient failure.

        Returns:
            The number of its transient failures, including this one if ``counted``; -1 if the lease was lost.
        """
        job = claim.job
        args: list[str | int] = [job.member, claim.owner, milliseconds(pause), int(counted), job.batch]
        return cast(int, self._run("postpone", [INFLIGHT, STATES, COUNTS], args))

    def give_back(self, batch: str, index: int) -> bool:
        """Queue an image again because the worker that received its message will not process it."""
        return self._run("give_back", [INFLIGHT, STATES], [ImageRef(batch, index).member]) == 1

    def drop(self, batch: str) -> int:
        """Remove a batch's images from flight, except those that a worker holds; returns how many were removed."""
        return cast(int, self._run("drop", FLIGHT, [batch]))

    def requeue(self, owner: str, limit: int = 200) -> list[Due]:
        """Queue up to ``limit`` images that are due; poison is claimed for ``owner``, who has to record it."""
        settings = self._settings
        ahead = max(settings.lease, settings.queued_look, settings.longest_pause) + _SLACK
        args: list[str | int] = [milliseconds(settings.queued_look), settings.max_crashes, limit, owner]
        args += [milliseconds(self._probation), milliseconds(ahead)]
        rows = cast(
            list[tuple[str, Literal["expired", "resend", "poison"], int, str, int]],
            self._run("requeue", [*FLIGHT, CLOCK], args),
        )
        return [
            Due(ImageRef.named(member), payload, why, attempts, bool(expired))
            for member, why, attempts, payload, expired in rows
        ]

    def reject(self, image: ImageRef, owner: str) -> int:
        """Count a delivery of an unreadable message.

        With number ``MOST_DELIVERIES``, ``owner`` has to record the image as failed.

        Returns:
            How often it has been delivered.
        """
        args: list[str | int] = [image.member, MOST_DELIVERIES, owner]
        return cast(int, self._run("reject", [INFLIGHT, STATES, JOBS], args))

    def discard(self, image: ImageRef) -> bool:
        """Remove a queued image from flight and its message from the queue; ``False`` if it is not queued."""
        return self._run("discard", FLIGHT, [image.member]) == 1

    @property
    def _probation(self) -> float:
        """Seconds at the end of a lease in which an overdue worker can still report that it lives."""
        return min(1.25 * self._settings.heartbeat, self._settings.lease / 2)

    @property
    def _lease(self) -> int:
        """Milliseconds of a lease before its probation."""
        return milliseconds(self._settings.lease - self._probation)

    def in_flight(self) -> int:
        """Images that are queued, running or waiting."""
        with sorted_errors():
            return self._redis.zcard(INFLIGHT)
