"""Notifications as `python -m benchmarks.watch_notifications` sends them, fewer: each object is taken in once."""

import signal

import pytest

from benchmarks.watch_notifications import run
from benchmarks.watching import BUCKET, WatchBench


@pytest.fixture
def bench(tmp_path):
    with WatchBench(tmp_path, every=2) as bench:
        yield bench


def test_a_kill_among_duplicates_and_reorderings_loses_and_doubles_nothing(bench):
    found = run(bench, objects=600, kills=1, seed=5)
    assert (found.lost, found.duplicated) == (0, 0)
    assert found.notified > 1.2 * found.objects


def test_a_watcher_that_is_stopped_and_continued_finds_another_in_its_place(bench):
    stopped = bench.suspend()
    bench.start()
    keys = [f"{number}.jpg" for number in range(50)]
    for key in keys:
        bench.store.put(key, b"\xff\xd8\xff" + key.encode(), "image/jpeg", bucket=BUCKET)
    assert bench.notify(keys)
    bench.wait_for(50)
    stopped.send_signal(signal.SIGCONT)
    bench.store.put("later.jpg", b"\xff\xd8\xff", "image/jpeg", bucket=BUCKET)
    assert bench.notify(["later.jpg"])
    bench.wait_for(51)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(30) == 0
    assert sorted(bench.taken()) == sorted(f"s3://{BUCKET}/{key}" for key in [*keys, "later.jpg"])
