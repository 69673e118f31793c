"""Credentials that expire in the middle, a bucket that may not be written or read: a clear sentence, nothing lost.

The access control is a stand-in (``gate.py``); all else is real.
"""

import os
import subprocess
import sys

import pytest
from gate import Gate
from test_service import Process, closed, work_until

from dermbatch import layout
from dermbatch.errors import StoreRefused
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.stack.environment import settings_environment
from orchestrator.steering import controls
from tests.corpus import write_corpus
from tests.waiting import wait_for


@pytest.fixture
def gate(empty_store):
    with Gate(empty_store.endpoint_url) as gate:
        yield gate


@pytest.fixture
def behind(gate, empty_store):
    """Settings that lead to the store through the gate."""
    return empty_store.model_copy(update={"endpoint_url": gate.url})


@pytest.fixture
def process(empty_redis, behind, tmp_path):
    process = Process(empty_redis, behind, tmp_path / "log")
    try:
        wait_for(process.leads)
        yield process
    finally:
        process.end()
        assert "Traceback" not in process.log.read_text()


REFUSED = [
    ((), "get", "ExpiredToken", "renew the credentials"),
    (("PUT",), "put", "AccessDenied", "its policy must allow this"),
]
UNREAD = (("GET",), "get", "AccessDenied", "refuses to")


@pytest.mark.parametrize(("methods", "what", "code", "says"), REFUSED)
def test_submit_says_so_in_one_sentence_and_can_be_given_again(
    orchestra, empty_redis, gate, behind, tmp_path, methods, what, code, says
):
    write_corpus(tmp_path / "images")
    env = settings_environment(Settings(redis=empty_redis, store=behind))

    def submit():
        return subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", "submit", str(tmp_path / "images"), "--batch", "b"],
            env={**os.environ, **env, "DERMBATCH_TRITON__URL": "127.0.0.1:9"},
            capture_output=True,
            text=True,
            check=False,
        )

    gate.close(*methods, code=code)
    ended = submit()
    assert ended.returncode == 1
    assert f"dermbatch: the object store refuses to {what} in s3://dermbatch: {code}; {says}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert orchestra.ledger.batches.all() == []
    gate.open()
    assert submit().returncode == 0
    assert orchestra.state().images > 10


@pytest.mark.parametrize(("methods", "what", "code", "says"), [*REFUSED, UNREAD])
def test_the_orchestrator_waits_until_it_is_let_in_again(orchestra, process, gate, methods, what, code, says):
    orchestra.plan(80)
    work_until(orchestra, lambda seen: len(seen) > 20)
    gate.close(*methods, code=code)

    def refused():
        # Workers have credentials of their own here; they finish what there is.
        orchestra.done(*orchestra.take())
        log = process.log.read_text()
        return gate.refusals > 0 and says in log and "access_denied" in log

    wait_for(refused, 60)
    assert orchestra.state().state == "open"
    gate.open()
    work_until(orchestra, lambda _: closed(orchestra))
    assert (closed(orchestra).done, closed(orchestra).failed) == (80, 0)
    assert process.process.poll() is None


def test_steering_is_refused_as_a_whole(orchestra, gate, behind):
    orchestra.plan(3)
    gate.close("PUT")
    store = ObjectStore(behind)
    for change in (controls.pause, controls.cancel):
        with pytest.raises(StoreRefused, match="its policy must allow this"):
            change(store, orchestra.ledger, "b")
    assert orchestra.state().state == "open"
    gate.open()
    controls.pause(store, orchestra.ledger, "b")
    assert orchestra.state().state == "paused"
    assert orchestra.key(layout.control("b"))
