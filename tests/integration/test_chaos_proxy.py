"""The kill-loop's chaos proxy does to requests what it says, and the store's client sorts all that comes of it."""

import http.client
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from urllib.parse import urlsplit

import pytest

from benchmarks.killloop.proxy import CONTROL, Mood, written
from dermbatch.errors import ObjectNotFound, StoreUnavailable
from dermbatch.store import ObjectStore
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part, http_ok, python_module

KEY = "batches/b/results/000000/{}.json"
BODY = b"x" * 5000


class Chaos:
    def __init__(self, store_settings, folder):
        upstream = urlsplit(store_settings.endpoint_url).port
        self.port = free_ports(1)[0]
        self.log = folder / "written.jsonl"
        self.part = Part(
            name="proxy",
            argv=python_module("benchmarks.killloop.proxy", str(self.port), str(upstream), str(self.log)),
            env=base_environment(os.environ),
            log=folder / "proxy.log",
            probe=lambda: http_ok(self.port, CONTROL),
        )
        settings = store_settings.model_copy(update={"endpoint_url": f"http://127.0.0.1:{self.port}"})
        self.store = ObjectStore(settings)

    def set(self, **mood):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", CONTROL, json.dumps(asdict(Mood(**mood))))
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer


@pytest.fixture
def chaos(empty_store, tmp_path):
    chaos = Chaos(empty_store, tmp_path)
    chaos.part.start()
    try:
        chaos.part.wait()
        yield chaos
    finally:
        chaos.part.stop()


@pytest.fixture
def straight(empty_store):
    return ObjectStore(empty_store)


def outcomes(act, times):
    """What comes of an act, so often: its result, or the name of the error of our tree; no other gets through."""

    def once(n):
        try:
            return act(n)
        except (StoreUnavailable, ObjectNotFound) as error:
            return type(error).__name__

    with ThreadPoolExecutor(times) as pool:  # side by side, for the client pauses before it tries again
        return Counter(pool.map(once, range(times)))


def test_a_fair_proxy_changes_nothing_and_notes_what_was_written(chaos, straight):
    assert chaos.store.put_if_absent(KEY.format(1), BODY, "application/json") is True
    assert chaos.store.put_if_absent(KEY.format(1), b"other", "application/json") is False
    chaos.store.put("elsewhere", BODY, "text/plain")
    assert chaos.store.get(chaos.store.bucket, KEY.format(1)) == BODY
    assert [info.key for info in chaos.store.list(chaos.store.bucket, "")] == [KEY.format(1), "elsewhere"]
    with pytest.raises(ObjectNotFound):
        chaos.store.get(chaos.store.bucket, "nothing")
    assert straight.get(straight.bucket, "elsewhere") == BODY
    noted = list(written(chaos.log))
    assert [(line.key, line.conditional) for line in noted] == [(f"{straight.bucket}/{KEY.format(1)}", True)]
    assert chaos.set()["records"] == 1


def test_two_plain_writes_are_two_lines(chaos):
    for body in (b"1", b"2"):
        chaos.store.put(KEY.format(1), body, "application/json")
    noted = list(written(chaos.log))
    assert len(noted) == 2
    assert len({line.sha256 for line in noted}) == 2
    assert not any(line.conditional for line in noted)


def test_errors_after_the_write_are_no_second_write(chaos, straight):
    chaos.set(kind="error", share=0.7)
    seen = outcomes(lambda n: chaos.store.put_if_absent(KEY.format(n), str(n).encode(), "application/json"), 30)
    assert seen["StoreUnavailable"] > 0
    there = {info.key for info in straight.list(straight.bucket, "batches/")}
    noted = [line.key for line in written(chaos.log)]
    assert len(noted) == len(set(noted)) == len(there)
    # The client cannot know: some records that were written were told as lost, or as another's.
    assert len(there) > seen[True]


@pytest.mark.parametrize("kind", ["cut", "error"])
def test_whatever_breaks_is_an_error_of_our_tree_and_nothing_is_torn(kind, chaos, straight):
    straight.put("whole", BODY, "text/plain")
    chaos.set(kind=kind, share=0.8)
    bucket = straight.bucket
    seen = outcomes(lambda _: chaos.store.get(bucket, "whole") == BODY, 10)
    seen += outcomes(lambda _: chaos.store.get(bucket, "nothing"), 15)
    seen += outcomes(lambda n: chaos.store.put(f"new/{n}", BODY, "text/plain") is not None, 10)
    seen += outcomes(lambda _: len(list(chaos.store.list(bucket, ""))) > 0, 5)
    assert seen["StoreUnavailable"] > 5
    assert seen[False] == 0
    assert all(straight.get(bucket, info.key) == BODY for info in straight.list(bucket, "new/"))
