"""Taking in: objects that are ready become entries of their rule's batch, as ``submit`` would make them."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from dermbatch import metrics
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import Ledger
from dermbatch.settings import Settings
from dermbatch.store import ObjectInfo, ObjectStore
from orchestrator.planning.intake.candidates import Candidate, Item
from orchestrator.planning.submission import admitted, prepare
from orchestrator.planning.support import pinned
from orchestrator.planning.uploading import entered
from orchestrator.watching.rules.rules import Rule, RuleBook
from orchestrator.watching.taking.gathering import Gathering
from orchestrator.watching.taking.memory import Memory


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
        store: Where all is.
        ledger: Is told.
        check: Called before anything is written; raises where this watcher is not to write.

    Raises:
        UsageError: If a rule's profile needs what is not set.
    """

    def __init__(
        self, settings: Settings, book: RuleBook, store: ObjectStore, ledger: Ledger, check: Callable[[], None]
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._check = check
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
        """Take in objects of one rule, and pass them on. After an error, the memory is to be recalled."""
        half = memory.half.get(found[0].origin) if len(found) == 1 else None
        gathering = half.gathering if half is not None else self._gathering(memory, rule, now)
        passed = half.images if half is not None else 0
        way = self._ways[rule.name]
        origins = {one.info.key: one.origin for one in found}
        modified = {one.origin: one.info.modified for one in found}
        images = Counter[str]()
        items = _but_first(passed, way.intake.objects(rule.prefix, [one.info for one in found]))
        folder = f"{gathering.batch.name}/{self._term}"
        entries = entered(folder, gathering.images, items, self._store, deidentify=way.deidentify)
        for item, entry in entries:
            if entry is None:
                continue
            origin = origins[str(item.position.after)]
            gathering.add(entry.model_copy(update={"origin": origin, "modified": modified[origin]}))
            images[origin] += 1
            self._check()
            gathering.write_if_due(way.deidentify)
        self._check()
        gathering.write(way.deidentify)
        memory.taken.add(modified.items())
        memory.half.pop(found[0].origin, None)
        for origin in origins.values():
            metrics.WATCH_OBJECTS.labels("taken" if images[origin] or passed else "no_image").inc()

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
            if looked and until is not None and now >= until:
                self._end(gathering)
                del memory.gatherings[name]
        while looked and memory.former:
            self._end(memory.former[-1])
            memory.former.pop()

    def _gathering(self, memory: Memory, rule: Rule, now: datetime) -> Gathering:
        """The batch of this rule that takes images in now."""
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
        begun = Gathering.begin(self._store, self._ledger, rule, order, now)
        memory.gatherings[rule.name] = begun
        return begun

    def _end(self, gathering: Gathering) -> None:
        self._check()
        gathering.seal()
        gathering.close()


def _but_first(images: int, items: Iterator[Item]) -> Iterator[Item]:
    """What a walk finds, but for the first images, and those whose object is gone meanwhile."""
    for item in items:
        if isinstance(item, Candidate):
            if item.refusal is not None and item.refusal.reason == ObjectNotFound.reason:
                continue
            if images:
                images -= 1
                continue
        yield item
