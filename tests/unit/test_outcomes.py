"""Which images have a record, by walks through a listing; and lines of a manifest, read where they belong."""

from threading import Event, Thread

import pytest

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.store import ObjectInfo
from orchestrator.batches.outcomes import entries, in_order, read_marks
from tests.outcome_samples import batch_of, entry_of
from tests.waiting import patience

IMAGES = 250_003
DONE = [0, 999, 1000, 9_999, 10_000, 10_001, 19_999, 99_999, 100_000, 123_456, 249_999, 250_000, 250_002]
FAILED = [1, 999, 9_998, 10_002, 99_998, 100_001, 200_000, 250_001]


class Store:
    """Objects by key, listed in order as S3 does; remembers how far each listing was read."""

    bucket = "b"

    def __init__(self, objects):
        self.objects = objects
        self.listed = 0

    def list(self, bucket, prefix, *, start_after=""):
        for key in sorted(self.objects):
            if key.startswith(prefix) and key > start_after:
                self.listed += 1
                yield ObjectInfo(key, 1)

    def get(self, bucket, key):
        if key not in self.objects:
            raise ObjectNotFound(key)
        return self.objects[key]


def keys():
    found = {layout.result("b", index): b"" for index in DONE} | {
        layout.failure("b", index): b"" for index in FAILED
    }
    for part in range(10):  # full, so that a walk ends with them
        found |= {layout.result("b", part * 1000 + n): b"" for n in range(1000)}
    return found


def outcomes(marks):
    return {index: marks.is_done(index) for index in marks.present()}


def test_walks_side_by_side_find_what_one_listing_has():
    others = ["batches/b/results/000010/x.json", "batches/b/results/zzz", "batches/b/failed/000001/1001.json"]
    store = Store(keys() | dict.fromkeys(others, b""))
    wanted = dict.fromkeys(FAILED, False) | dict.fromkeys([*range(10_000), *DONE], True)
    assert outcomes(read_marks(store, batch_of("b", IMAGES), 3)) == dict(sorted(wanted.items()))


def test_a_walk_through_full_parts_asks_for_nothing_beyond_them():
    store = Store({key: b"" for key in keys() if "/results/00000" in key})
    read_marks(store, batch_of("b", 10_001), 1)
    # Each record once: ten full parts by the first walk, nothing by the second, nothing that failed.
    assert store.listed == 10_000


def test_records_beyond_a_batch_are_passed_over():
    store = Store({layout.result("b", index): b"" for index in (3, 4, 5, 12_000)})
    assert outcomes(read_marks(store, batch_of("b", 5))) == {3: True, 4: True}


@pytest.mark.parametrize("damage", ["none", "moved", "cut", "gone"])
def test_lines_of_a_manifest_are_found_wherever_they_are(damage):
    lines = [entry_of(index).to_json() for index in range(2000, 2500)]
    if damage == "moved":
        lines.insert(3, b"")
    if damage == "cut":
        lines[7] = lines[7][:20]
    parts = {} if damage == "gone" else {layout.manifest_part("b", "000002"): b"\n".join(lines)}
    found = list(entries(Store(parts), batch_of("b", 2500), [5, 2001, 2007, 2400]))
    assert [entry.index for entry in found] == [5, 2001, 2007, 2400]
    lost = {"none": {5}, "moved": {5}, "cut": {5, 2007}, "gone": {5, 2001, 2007, 2400}}[damage]
    assert {entry.index for entry in found if entry.name == f"image {entry.index}"} == lost
    assert {entry.index for entry in found if entry == entry_of(entry.index)} == {5, 2001, 2007, 2400} - lost


def test_who_lets_go_of_results_in_order_waits_for_no_thread():
    """The garbage collector does so at any moment, even while a thread starts."""
    go_on, begun = Event(), Event()

    def work(item):
        if item:
            begun.set()
            go_on.wait(patience(60))
        return item

    found = in_order(work, range(10), 2)
    assert next(found) == 0
    begun.wait(patience(10))
    closing = Thread(target=found.close)
    closing.start()
    closing.join(patience(10))
    waits = closing.is_alive()
    go_on.set()
    closing.join()
    assert not waits
