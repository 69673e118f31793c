"""The dispatcher: keeps a small window of images in the queue, taken in fair shares from the open batches.

The window is the back-pressure: whatever an archive's size, Redis holds only what the workers will do next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from math import ceil

import structlog

from dermbatch import metrics
from dermbatch.errors import DermbatchError, MessageDamaged, MessageRefused, NewerFormat
from dermbatch.ledger import BatchState, Due, Ledger, Message
from dermbatch.ledger.images import MOST_DELIVERIES
from dermbatch.records.asked import Batch, ImageJob, ManifestEntry
from dermbatch.settings import LedgerSettings
from dermbatch.stages import Stage, closure
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import asked
from orchestrator.dispatch.feed import Feed
from orchestrator.dispatch.forecast import Forecast, Rate
from orchestrator.dispatch.lost_causes import bury, bury_unread, refuse
from orchestrator.dispatch.messages import Messages
from orchestrator.planning.deadline import urgency
from orchestrator.steering.controls import halt, is_damage

_log = structlog.get_logger(__name__)

_SLOTS_BEFORE_ANY_WORKER = 4
"""Worker slots assumed while no worker has reported: something must wait, so that scaling sees work."""

_FED_AT_ONCE = 500
_HELD_BACK = 4
"""Images waiting out a pause do not count towards the window, up to this many times its size: a few that cannot be
done now must not hold up the others, yet in an outage, when all wait, feeding must stop."""

_JUDGED_FROM = 20
"""Outcomes before a batch is judged by its share of failures."""


class Dispatcher:
    """Feeds the queue, and sends again what the ledger says is due.

    Args:
        store: Holds the manifests.
        ledger: Knows what is in flight.
        messages: Makes the messages.
        settings: The size of the window.
        name: Name of this orchestrator, as owner of poison images.
        choose: Has the last word on a job of the live lane: it may add a canary.
    """

    def __init__(
        self,
        store: ObjectStore,
        ledger: Ledger,
        messages: Messages,
        settings: LedgerSettings,
        name: str,
        choose: Callable[[ImageJob], ImageJob] = lambda job: job,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._messages = messages
        self._settings = settings
        self._name = name
        self._choose = choose
        self._feeds: dict[str, Feed] = {}
        self._batches: dict[str, Batch] = {}
        self._rates: dict[str, Rate] = {}
        self._forecasts: dict[str, Forecast] = {}
        self._left: dict[str, DermbatchError] = {}

    def feed(self) -> int:
        """Fill the window of each lane from its open batches.

        Returns:
            How many images were put into the queue or refused.
        """
        states = self._ledger.batches.all()
        self._forget_closed({state.name for state in states})
        for state in states:
            self._note(state)
        slots = self._ledger.slots.live() or _SLOTS_BEFORE_ANY_WORKER
        return sum(
            self._fill([state for state in states if state.lane == lane], slots) for lane in ("live", "bulk")
        )

    def repair(self) -> int:
        """Resend what is due: images of silent workers, pauses that have ended, lost messages; record poison."""
        due = self._ledger.images.requeue(self._name)
        for item in due:
            try:
                job = self._job_of(item)
            except (NewerFormat, MessageDamaged, MessageRefused) as error:
                self._pass_over(item, error)
                continue
            if item.lease_expired:
                metrics.LEASE_EXPIRIES.inc()
                metrics.IMAGES.labels("crashed").inc()
                _log.warning("lease expired", batch=job.batch, index=job.index, attempts=item.attempts)
            if item.why == "poison":
                bury(self._store, self._ledger, job, item.attempts, self._name)
        return len(due)

    def _job_of(self, item: Due) -> ImageJob:
        job = self._messages.job_of(item.payload)
        if job.member != item.image.member:
            raise MessageRefused("a message in the ledger belongs to another image")
        return job

    def _pass_over(self, item: Due, error: DermbatchError) -> None:
        """Deal with a message that must not be processed, so that the others go on."""
        ledger, image = self._ledger, item.image
        _log.warning(
            "message passed over", batch=image.batch, index=image.index, reason=error.reason, message=str(error)
        )
        if isinstance(error, NewerFormat):  # left alone: a version that knows it will deal with it
            return
        if isinstance(error, MessageRefused) and ledger.images.discard(image):
            # From an unknown writer, or from a version that did not sign: the manifest says what was asked for.
            ledger.batches.feed_from(image.batch, image.index)
            return
        deliveries = ledger.images.reject(image, self._name)
        if deliveries >= MOST_DELIVERIES:
            bury_unread(self._store, ledger, image, deliveries, self._name, error)

    def _fill(self, states: Sequence[BatchState], slots: int) -> int:
        """Top up each batch of a lane to its share of the window."""
        fed = 0
        hungry = [state for state in states if _is_hungry(state)]
        window = self._window(states, slots)
        window -= _held([state for state in states if not _is_hungry(state)], window)
        weights = {state.name: self._weight(state) for state in hungry}
        for state in hungry:
            share = max(0, ceil(window * weights[state.name] / sum(weights.values())))
            held = _held([state], share)
            try:
                if not self._too_many_failed(state) and share > held:
                    fed += self._feed(state, share - held)
            except DermbatchError as error:
                self._feeds.pop(state.name, None)  # what was read but not sent is read again
                self._batches.pop(state.name, None)
                if isinstance(error, NewerFormat):  # it waits for an orchestrator that knows it
                    self._say_once(state.name, error)
                    continue
                if not is_damage(error):
                    raise
                halt(self._store, self._ledger, state, str(error))  # only this batch stops: others go on
        return fed

    def _weight(self, state: BatchState) -> float:
        """The batch's weight, raised if the batch would miss its deadline."""
        batch = self._batches.get(state.name)  # none until it is first fed
        deadline = batch.order.deadline if batch is not None else None
        return state.weight * urgency(deadline, datetime.now(UTC), state.seconds_left)

    def _say_once(self, name: str, error: DermbatchError) -> None:
        if name not in self._left:
            _log.warning("batch left alone", batch=name, reason=error.reason, message=str(error))
        self._left[name] = error

    def _window(self, states: Sequence[BatchState], slots: int) -> int:
        rate = sum(self._rates[state.name].lately for state in states)
        fast = min(rate * self._settings.window_seconds, self._settings.window_most)
        return max(slots * self._settings.window_per_slot, round(fast))

    def _feed(self, state: BatchState, room: int) -> int:
        feed, batch = self._feeds.get(state.name), self._batch(state)
        if feed is None or feed.position != state.next_index:  # set back, to be walked through again
            feed = Feed(self._store, self._ledger, batch, state.next_index)
            self._feeds[state.name] = feed
        feed.batch = batch
        if state.next_index >= state.images and not state.in_flight:
            feed = Feed(self._store, self._ledger, batch, 0)  # fed to its end, yet not finished
            self._feeds[state.name] = feed
        fed = 0
        while room > 0:
            entries = feed.take(min(room, _FED_AT_ONCE))
            if not entries:
                break
            added = self._send(state, entries, feed.position)
            room -= added
            fed += added
        self._ledger.batches.advance(state.name, feed.position)
        return fed

    def _send(self, state: BatchState, entries: Sequence[ManifestEntry], position: int) -> int:
        """Refuse or enqueue entries; returns how many were refused or newly queued."""
        batch = self._batch(state)
        messages: list[Message] = []
        for entry in entries:
            if entry.refusal is not None or entry.source is None:
                refuse(self._store, self._ledger, batch.name, entry)
            else:
                messages.append(self._messages.of(self._job(batch, entry, entry.source, state), state.lane))
        added = self._ledger.images.enqueue(messages, next_index=position)
        metrics.DISPATCHED.inc(added)
        return added + len(entries) - len(messages)

    def _job(self, batch: Batch, entry: ManifestEntry, source: str, state: BatchState) -> ImageJob:
        job = ImageJob(
            batch=batch.name,
            index=entry.index,
            name=entry.name,
            source=source,
            order=batch.order.model_copy(update={"lane": state.lane}),
            size=entry.size,
            etag=entry.etag,
            sha256=entry.sha256,
            frame=entry.frame,
            duplicate_of=entry.duplicate_of,
            may_have_text=entry.may_have_text,
            created=batch.created,
            known=batch.known
            or entry.duplicate_of is not None
            or state.tolerant,  # what failed has left something
        )
        return self._choose(job) if state.lane == "live" else job

    def _too_many_failed(self, state: BatchState) -> bool:
        share = self._batch(state).order.max_failed_share
        outcomes = state.done + state.failed
        enough = _JUDGED_FROM if state.growing else min(_JUDGED_FROM, state.images)
        if share is None or state.tolerant or outcomes < enough:
            return False
        if state.failed <= share * outcomes:
            return False
        why = f"{state.failed} of {outcomes} images failed, more than {share:.0%}"
        halt(self._store, self._ledger, state, why, tolerant=True)
        return True

    def _note(self, state: BatchState) -> None:
        now, rate = time.monotonic(), self._rates.setdefault(state.name, Rate())
        if not rate.note(state.done + state.failed, now):
            return
        forecast = self._forecasts.setdefault(state.name, Forecast())
        forecast.note(state, now)
        try:
            batch = self._batch(state)
        except DermbatchError:  # feeding it will report what is wrong with it
            return
        enlarging = Stage.ENHANCE in closure(frozenset(batch.order.stages))
        left = forecast.left(state.left, batch.duplicates, enlarging=enlarging)
        self._ledger.batches.note_rate(state.name, rate.lately, left)

    def _batch(self, state: BatchState) -> Batch:
        """The record, read again if the batch has grown."""
        known = self._batches.get(state.name)
        if known is None or known.images < state.images:
            known = self._batches[state.name] = asked(self._store, state.name)
        return known

    def _forget_closed(self, names: set[str]) -> None:
        for kept in (self._batches, self._feeds, self._rates, self._forecasts, self._left):
            for name in set(kept) - names:
                del kept[name]


def _is_hungry(state: BatchState) -> bool:
    """Whether there may be images to feed; not if everything that is left is in flight."""
    to_feed = state.next_index < state.images or not state.in_flight
    return state.state == "open" and state.left > 0 and to_feed


def _held(states: Sequence[BatchState], window: int) -> int:
    """How much of a window these batches occupy."""
    waiting = sum(state.waiting for state in states)
    return sum(state.in_flight for state in states) - min(waiting, _HELD_BACK * max(0, window))
