"""The watcher: new objects below the prefixes of rules become work, once each.

Listings and notifications are two sources of the same thing: the name of an object that is worth a look. Whatever
the source, the questions are the same: which rule takes it, is it ready, was it taken in before?
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import structlog

from dermbatch import metrics
from dermbatch.errors import DermbatchError, ObjectNotFound, PermanentError, TransientError
from dermbatch.ledger import Ledger
from dermbatch.settings import Settings
from dermbatch.store import ObjectInfo, ObjectStore
from orchestrator.watching.lead import Lead
from orchestrator.watching.news.events import ObjectEvent
from orchestrator.watching.news.inbox import Inbox
from orchestrator.watching.news.listing import Listing, listing
from orchestrator.watching.rules.rules import Rule, RuleBook
from orchestrator.watching.taking.etags import ETags
from orchestrator.watching.taking.gathering import Overtaken
from orchestrator.watching.taking.memory import Memory, recall
from orchestrator.watching.taking.readiness import Markers, is_settled, is_unfinished
from orchestrator.watching.taking.taken import is_still, origin_of
from orchestrator.watching.taking.taker import NewObject, Taker

_log = structlog.get_logger(__name__)

_TURN = 0.2
"""Seconds that a turn waits for notifications before the next one begins."""

_PAUSE_AFTER_ERROR = 2.0
_EVENTS_AT_A_TIME = 256
_LOOKS_AT_A_TIME = 16
_LATER_AT_MOST = 10_000
"""Most announced objects that are held until they settle; any others are left to the listing."""


class _MustEnd(Exception):
    """This watcher must end, or does not lead: nothing more is written. Not an error; never leaves this module."""


class Watcher:
    """Takes new objects in for as long as it leads; otherwise waits to take over.

    Args:
        settings: Limits, models, and how often to list.
        book: The rules.
        store: The object store.
        ledger: Holds the lead, takes new batches, and passes on what watchers ask the leader to look at.
        clock: Tells the time by which hours and days begin; the store's own clock if none is given.

    Raises:
        UsageError: If a rule's profile needs what is not set.
    """

    def __init__(
        self,
        settings: Settings,
        book: RuleBook,
        store: ObjectStore,
        ledger: Ledger,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._book = book
        self._store = store
        self._ledger = ledger
        self._every = settings.watch.every
        self._now = clock or store.now
        self._inbox = Inbox(settings.watch.queue)
        name = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._lead = Lead(ledger, name, settings.ledger.leader_lease)
        self._taker = Taker(settings, book, store, ledger, self._check)
        self._markers = Markers(store)
        self._etags = ETags()
        self._stopping = threading.Event()
        self._memory: Memory | None = None
        self._listings: deque[Listing] = deque()
        self._list_at = 0.0
        self._listed_from = 0.0
        self._looked = False
        self._later: dict[ObjectEvent, float] = {}
        self._careful = False  # take objects in one by one, to find the one that triggers a defect
        self._bad: set[str] = set()
        self._readers = ThreadPoolExecutor(_LOOKS_AT_A_TIME, thread_name_prefix="watcher")

    def hear(self, events: Sequence[ObjectEvent]) -> None:
        """Keep what a notification announces, to be looked at; from any thread.

        Raises:
            queue.Full: If too much waits to be looked at.
        """
        self._inbox.put([event for event in events if self._concerns(event)])

    def stop(self) -> None:
        """End soon; from any thread or a signal's handler."""
        self._stopping.set()

    def run(self) -> None:
        """Watch until :meth:`stop`."""
        self._lead.begin()
        try:
            while not self._stopping.is_set():
                if not self._guarded(self._turn):
                    self._stopping.wait(_PAUSE_AFTER_ERROR)
        finally:
            self._end()

    def run_once(self) -> bool:
        """List everything once, take in what is ready, and seal the batches whose time is over.

        Returns:
            ``False`` if another watcher leads, else ``True``; also if :meth:`stop` ended it early.

        Raises:
            DermbatchError: If a server fails; what was taken in before stays taken in.
        """
        self._lead.begin()
        try:
            if not self._lead.held():
                return False
            memory = self._recalled()
            self._listings.append(self._all())
            while self._listings and not self._stopping.is_set():
                self._list(memory)
            self._taker.seal(memory, self._now(), looked=self._looked)
        except _MustEnd:
            return self._stopping.is_set()
        else:
            return True
        finally:
            self._end()

    def _guarded(self, turn: Callable[[], None]) -> bool:
        """Take a turn; returns whether it went well. If cut short, what is uncertain is read again in the next."""
        try:
            turn()
        except _MustEnd:
            self._forget()
        except Overtaken as error:
            _log.warning("overtaken", message=str(error))
            self._forget()
        except DermbatchError as error:
            _log.warning("turn failed", reason=error.reason, message=str(error))
            self._forget()
            return False
        except Exception:
            _log.exception("turn failed")
            self._forget()
            return False
        return True

    def _turn(self) -> None:
        if not self._lead.held():
            self._forget()
            self._hand_on()
            self._inbox.wait(_TURN)
            return
        memory = self._recalled()
        for name in self._ledger.slots.asked_to_look():
            prefixes = [rule.prefix for rule in self._book.rules if rule.name == name]
            self._listings.appendleft(listing(self._store, prefixes, everything=False))
        self._look_at_events(memory)
        if not self._listings and time.monotonic() >= self._list_at:
            self._listings.append(self._all())
        self._list(memory)
        self._taker.seal(memory, self._now(), looked=self._looked)
        if not self._listings:
            self._inbox.wait(_TURN)

    def _recalled(self) -> Memory:
        if self._memory is None:
            began = time.monotonic()
            self._memory = recall(self._store, self._ledger, self._check)
            self._list_at = 0.0
            seconds = round(time.monotonic() - began, 2)
            _log.info("watching", rules=[rule.name for rule in self._book.rules], seconds=seconds)
        return self._memory

    def _forget(self) -> None:
        if self._memory is not None:
            self._memory.close()
        self._memory, self._looked = None, False
        self._listings.clear()

    def _all(self) -> Listing:
        self._markers.forget()
        self._taker.quotas.read()
        self._listed_from = time.monotonic()
        return listing(self._store, [rule.prefix for rule in self._book.rules], everything=True)

    def _list(self, memory: Memory) -> None:
        """Go on with the first listing, by one page."""
        if not self._listings:
            return
        now = self._listings[0]
        page = next(now.pages, None)
        if page is not None:
            self._consider(memory, *page, now)
            return
        self._listings.remove(now)
        if not now.everything:
            return
        seconds = time.monotonic() - self._listed_from
        self._list_at = self._listed_from + max(self._every, seconds) if now.whole else time.monotonic() + 2
        metrics.WATCH_LISTING_SECONDS.observe(seconds)
        metrics.WATCH_WAITING_OBJECTS.set(now.waiting)
        age = (self._store.now() - now.oldest).total_seconds() if now.oldest is not None else 0
        metrics.WATCH_OLDEST_WAITING_SECONDS.set(max(0, age))
        if now.whole:
            memory.settle(self._taker.quotas.held)
            self._looked, self._careful = True, False
        self._taker.quotas.tell(now.held)

    def _look_at_events(self, memory: Memory) -> None:
        due = time.monotonic()
        events = self._inbox.take(_EVENTS_AT_A_TIME)
        settled = [event for event, then in self._later.items() if then <= due][:_EVENTS_AT_A_TIME]
        for event in settled:
            del self._later[event]
        events = list(dict.fromkeys([*settled, *events]))
        if not events:
            return
        self._markers.forget()
        try:
            found = list(self._readers.map(self._seen, events))
        except DermbatchError:
            self._inbox.put_back(events)
            raise
        for bucket in dict.fromkeys(event.bucket for event in events):
            infos = [info for event, info in zip(events, found, strict=True) if info and event.bucket == bucket]
            self._consider(memory, bucket, infos, None)
        for event in events:
            self._look_around(event)

    def _seen(self, event: ObjectEvent) -> ObjectInfo | None:
        try:
            return self._store.stat(event.bucket, event.key)
        except ObjectNotFound:
            return None

    def _look_around(self, event: ObjectEvent) -> None:
        """A marker's arrival makes what lies below its folder ready."""
        if any(rule.is_marker(event.bucket, event.key) for rule in self._book.rules):
            folder = f"s3://{event.bucket}/{event.key.rpartition('/')[0]}"
            self._listings.appendleft(listing(self._store, [folder], everything=False))

    def _consider(self, memory: Memory, bucket: str, infos: Iterable[ObjectInfo], waiting: Listing | None) -> None:
        """Take in the objects that a rule takes, that are ready, and that were not taken in before."""
        ready: dict[str, list[NewObject]] = {}
        infos = list(infos)
        now = self._told_apart(bucket, infos)
        for info in infos:
            rule = None if is_unfinished(info) else self._book.rule_for(bucket, info.key)
            if rule is None:
                continue
            one = NewObject(rule, info, self._origin(memory, bucket, info))
            if one.origin in self._bad:
                continue
            if one.origin in memory.half:
                self._take(memory, rule, [one], waiting)
            elif one.origin in memory.taken:
                continue
            elif is_settled(rule, info, now) and self._markers.there(rule, bucket, info):
                ready.setdefault(rule.name, []).append(one)
            elif waiting is not None:
                waiting.wait_for(info)
            else:
                self._look_later(rule, ObjectEvent(bucket, info.key), info, now)
        for found in ready.values():
            for some in [[one] for one in found] if self._careful else [found]:
                self._take(memory, some[0].rule, some, waiting)

    def _told_apart(self, bucket: str, infos: Sequence[ObjectInfo]) -> datetime:
        """The store's time; waits a second first if one of these objects could still be rewritten unnoticed."""
        self._etags.see(bucket, infos)
        now = self._store.now()
        if any(self._etags.may_hide(info, now) for info in infos):
            self._stopping.wait(1)
            now = self._store.now()
        return now

    def _origin(self, memory: Memory, bucket: str, info: ObjectInfo) -> str:
        """The object's origin; a new one if only its ETag says that it was taken in before."""
        origin = origin_of(bucket, info)
        if memory.was_of(origin, info.modified) in {True, None}:
            return origin
        timed = origin_of(bucket, info, timed=True)
        if timed in memory.taken or timed in memory.half or timed in self._bad:
            return timed
        try:
            if not is_still(self._store, bucket, info):
                return timed
        except PermanentError:  # gone, or closed to us: it is looked at again
            return origin
        memory.taken.add([(origin, info.modified)])
        return origin

    def _take(self, memory: Memory, rule: Rule, found: Sequence[NewObject], waiting: Listing | None) -> None:
        tenant = rule.tenant or "default"
        try:
            if tenant not in self._taker.quotas.held and not memory.keeps_back(rule.name, found[0].origin):
                self._taker.take(memory, rule, found, self._now())
            if waiting is not None:
                waiting.held[tenant] += sum(one.origin not in memory.taken for one in found)
        except (_MustEnd, Overtaken, TransientError):
            raise
        except Exception:
            # A defect triggered by one object must not keep all others waiting.
            self._careful = True
            if len(found) == 1:
                self._bad.add(found[0].origin)
                _log.error("an object is left out until a restart", rule=rule.name, origin=found[0].origin)
            raise

    def _look_later(self, rule: Rule, event: ObjectEvent, info: ObjectInfo, now: datetime) -> None:
        if rule.settle and info.modified is not None and len(self._later) < _LATER_AT_MOST:
            age = (now - info.modified).total_seconds()
            if age < rule.settle:  # otherwise it waits for its marker, whose own event will trigger it
                self._later[event] = time.monotonic() + rule.settle - age

    def _hand_on(self) -> None:
        """Ask the leader to look: it is told the names of rules, not of objects, which may be patients' names."""
        events = self._inbox.take(_EVENTS_AT_A_TIME)
        rules = {rule.name for event in events for rule in self._book.rules if _below(rule, event)}
        try:
            self._ledger.slots.ask_to_look(sorted(rules))
        except DermbatchError:
            self._inbox.put_back(events)
            raise

    def _concerns(self, event: ObjectEvent) -> bool:
        return any(_below(rule, event) for rule in self._book.rules)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise _MustEnd("this watcher ends")
        if not self._lead.held():
            raise _MustEnd("this watcher does not lead any more")

    def _end(self) -> None:
        self._forget()
        self._lead.end()
        self._readers.shutdown()
        _log.info("watcher stopped")


def _below(rule: Rule, event: ObjectEvent) -> bool:
    return rule.below(event.bucket, event.key) is not None
