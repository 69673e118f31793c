"""Taking in: objects that are ready become entries of their rule's batch, just as ``submit`` makes them."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from dermbatch import metrics
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import Ledger
from dermbatch.records.asked import ManifestEntry
from dermbatch.settings import Settings
from dermbatch.store import ObjectInfo, ObjectStore
from orchestrator.planning.intake.candidates import Candidate, Item
from orchestrator.planning.submission import Submission, admitted, prepare
from orchestrator.planning.support import pinned
from orchestrator.planning.uploading import entered
from orchestrator.watching.rules.rules import Rule, RuleBook
from orchestrator.watching.taking.gathering import Gathering
from orchestrator.watching.taking.memory import Half, Memory
from orchestrator.watching.taking.quotas import Quotas


@dataclass(frozen=True)
class NewObject:
    """An object that is to be taken in.

    Attributes:
        rule: That takes it.
        info: The object.
        origin: Tells it from all others.
    """

    rule: Rule
    info: ObjectInfo
    origin: str


class Taker:
    """Takes objects in.

    Args:
        settings: For limits, models and privacy.
        book: The rules.
        store: The object store.
        ledger: Is told.
        check: Called before anything is written; raises where this watcher is not to write.

    Attributes:
        quotas: Quotas of the rules' tenants.

    Raises:
        UsageError: If a rule's profile needs what is not set.
    """

    def __init__(
        self, settings: Settings, book: RuleBook, store: ObjectStore, ledger: Ledger, check: Callable[[], None]
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._check = check
        self.quotas = Quotas(settings, store, {rule.tenant or "default" for rule in book.rules})
        self._ways = {
            rule.name: prepare(
                pinned(admitted(rule.order(settings), settings), rule.support, store, settings),
                [rule.prefix],
                settings,
                store,
                None,
                filters=rule.filters,
                profile=book.profiles[rule.deidentify] if rule.deidentify is not None else None,
            )
            for rule in book.rules
        }
        # Uploads are this process's own: one that was stopped must not write over what another one has uploaded.
        self._term = uuid.uuid4().hex[:12]

    def take(self, memory: Memory, rule: Rule, found: Sequence[NewObject], now: datetime) -> None:
        """Take in objects of one rule, as far as its tenant's quota allows, and pass them on.

        What is held then is neither taken nor, but for an archive that was begun, half: it is to be brought again.
        After an error, the memory is to be recalled.
        """
        half = memory.half.get(found[0].origin) if len(found) == 1 else None
        gathering = half.gathering if half is not None else self._gathering(memory, rule, now)
        if gathering is None:
            return
        passed = half.images if half is not None else 0
        way = self._ways[rule.name]
        origins = {one.info.key: one.origin for one in found}
        modified = {one.origin: one.info.modified for one in found}
        images = Counter[str]({found[0].origin: passed})
        items = _but_first(passed, way.intake.objects(rule.prefix, [one.info for one in found]))
        folder = f"{gathering.batch.name}/{self._term}"
        entries = entered(folder, gathering.images, items, self._store, deidentify=way.deidentify)
        ahead: list[ManifestEntry] = []
        with closing(entries):
            for item, entry in entries:
                if entry is not None:
                    origin = origins[str(item.position.after)]
                    ahead.append(entry.model_copy(update={"origin": origin, "modified": modified[origin]}))
                if gathering.is_due(len(ahead)) and (ahead := self._pass_on(gathering, ahead, way, images)):
                    break
            else:
                ahead = self._pass_on(gathering, ahead, way, images)
        whole = list(modified)
        if ahead:
            first = ahead[0].origin or ""
            whole = whole[: whole.index(first)]
            if images[first]:
                memory.half[first] = Half(gathering, images[first], modified[first], held=True)
        memory.taken.add((origin, modified[origin]) for origin in whole)
        for origin in whole:
            memory.half.pop(origin, None)
            metrics.WATCH_OBJECTS.labels("taken" if images[origin] else "no_image").inc()

    def _pass_on(
        self, gathering: Gathering, ahead: Sequence[ManifestEntry], way: Submission, images: Counter[str]
    ) -> list[ManifestEntry]:
        """Write images into the batch, and count them; returns those that the quota does not allow."""
        self._check()
        fit = self.quotas.fitting(gathering, [entry.size or 0 for entry in ahead])
        for entry in ahead[:fit]:
            gathering.add(entry)
            images[entry.origin or ""] += 1
        gathering.write(way.deidentify)
        return list(ahead[fit:])

    def seal(self, memory: Memory, now: datetime, *, looked: bool) -> None:
        """Seal the batches whose time is over.

        Args:
            memory: Has them.
            now: The time.
            looked: Whether all objects were looked at since the memory was recalled: before, an archive may be
                left that goes on in such a batch.
        """
        for name, gathering in list(memory.gatherings.items()):
            until = gathering.batch.until
            if looked and until is not None and now >= until and not memory.waits(gathering):
                self._end(gathering)
                del memory.gatherings[name]
        for gathering in [one for one in memory.former if looked and not memory.waits(one)]:
            self._end(gathering)
            memory.former.remove(gathering)

    def _gathering(self, memory: Memory, rule: Rule, now: datetime) -> Gathering | None:
        """The batch of this rule that takes images in now; none is begun where its tenant has no room for one."""
        order = self._ways[rule.name].order
        there = memory.gatherings.get(rule.name)
        if there is not None:
            batch = there.batch
            over = batch.until is not None and now >= batch.until
            if not (over or batch.order != order) or memory.waits(there):
                return there
            self._end(there)
            del memory.gatherings[rule.name]
        self._check()
        if not self.quotas.has_room(order.tenant, rule.batch, now):
            return None
        begun = Gathering.begin(self._store, self._ledger, rule, order, now)
        memory.gatherings[rule.name] = begun
        return begun

    def _end(self, gathering: Gathering) -> None:
        self._check()
        gathering.seal()
        gathering.close()


def _but_first(images: int, items: Iterator[Item]) -> Iterator[Item]:
    """What a walk finds, except for the first images, and those whose object is gone meanwhile."""
    for item in items:
        if isinstance(item, Candidate):
            if item.refusal is not None and item.refusal.reason == ObjectNotFound.reason:
                continue
            if images:
                images -= 1
                continue
        yield item
