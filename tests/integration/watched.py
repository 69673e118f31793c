"""Buckets that are watched, watchers in threads, and what they have taken in: for tests and benchmarks."""

import io
import threading
import zipfile
from collections import Counter
from contextlib import contextmanager

from dermbatch import layout
from dermbatch.ledger import Ledger
from dermbatch.settings import LedgerSettings, Settings, WatchSettings
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import part_entries, read_batch
from orchestrator.watching.news.events import ObjectEvent
from orchestrator.watching.rules.rules import Rule, RuleBook
from orchestrator.watching.watcher import Watcher
from tests.waiting import wait_for

BUCKET = "pacs"
LEASE = 1.0
KEYS = [f"in/{n:03d}.jpg" for n in range(40)]


def taken_in(store):
    """Name to number of entries, of all batches that watching has made; parts beyond the record are no entries."""
    counted = Counter()
    for batch in batches(store):
        counted.update(entry.name for entry in entries(store, batch))
    return counted


def batches(store):
    """Those that watching has made, in the order in which they were begun."""
    names = (name for name in store.folders(store.bucket, layout.BATCHES) if name.startswith("watch-"))
    return sorted((read_batch(store, name) for name in names), key=lambda batch: batch.created)


def entries(store, batch):
    found = []
    for first in range(0, batch.images, layout.PART_SIZE):
        part, _ = layout.part_of(first)
        body = store.get(store.bucket, layout.manifest_part(batch.name, part))
        found += part_entries(body, batch.name, part, most=batch.images - first)
    assert [entry.index for entry in found] == list(range(batch.images))
    return found


def uri(key):
    return f"s3://{BUCKET}/{key}"


def packed(*names):
    """A zip of files that begin as JPEG files do, each with its name in it."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name in names:
            archive.writestr(name, b"\xff\xd8\xff" + name.encode())
    return body.getvalue()


def rule(name="all", prefix="", **fields):
    """A rule for what is below this prefix of the bucket."""
    return Rule(name=name, prefix=f"s3://{BUCKET}/{prefix}", **fields)


class Watched:
    """A bucket that is watched.

    Args:
        redis_settings, store_settings: Lead to the servers.
        every: Seconds between listings.
    """

    def __init__(self, redis_settings, store_settings, every=0.5):
        self.settings = Settings(
            redis=redis_settings,
            store=store_settings,
            ledger=LedgerSettings(leader_lease=LEASE),
            watch=WatchSettings(every=every),
        )
        self.store = ObjectStore(store_settings)
        self.store.create_bucket(BUCKET)
        self.store.delete_prefix(BUCKET, "")
        self.ledger = Ledger(redis_settings, self.settings.ledger)

    def put(self, key, body=None, image=b"\xff\xd8\xff"):
        """An object that begins as a JPEG does; its content is its key where none is given."""
        self.store.put(key, image + (key.encode() if body is None else body), "image/jpeg", bucket=BUCKET)

    def watcher(self, *rules, store=None, clock=None):
        book = RuleBook(rules or [Rule(name="all", prefix=f"s3://{BUCKET}")])
        return Watcher(self.settings, book, store or self.store, self.ledger, clock)

    @contextmanager
    def running(self, *rules, **more):
        """A watcher in a thread."""
        watcher = self.watcher(*rules, **more)
        thread = threading.Thread(target=watcher.run)
        thread.start()
        try:
            yield watcher
        finally:
            watcher.stop()
            thread.join(30)
            assert not thread.is_alive()

    def once(self, *rules, **more):
        """List once."""
        assert self.watcher(*rules, **more).run_once()

    @property
    def taken(self):
        return taken_in(self.store)

    def has(self, *keys, seconds=30.0):
        """Wait until these objects were taken in, each once, and no others."""
        wanted = Counter(map(uri, keys))
        wait_for(lambda: set(self.taken) >= set(wanted), seconds, f"{len(wanted)} objects")
        assert self.taken == wanted


def events(*keys):
    return [ObjectEvent(BUCKET, key) for key in keys]
