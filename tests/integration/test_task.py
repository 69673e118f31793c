"""The task's shell with a real ledger and a real store; the pipeline inside is a stand-in."""

import threading
import time
from datetime import UTC, datetime

import pytest
from messages import job_of, messages_of

from dermbatch import layout
from dermbatch.errors import (
    BadInput,
    InferenceAway,
    InferenceUnavailable,
    LedgerUnavailable,
    ObjectNotFound,
    PermanentError,
    StoreRefused,
)
from dermbatch.ledger import Claim, Ledger
from dermbatch.ledger.queue import QUEUES
from dermbatch.records.asked import FORMAT, ModelChoice, Shadow
from dermbatch.records.outcome import FailureRecord, ResultRecord, SourceInfo
from dermbatch.records.signature import signed
from dermbatch.settings import LedgerSettings, Settings, TritonSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.stack.ports import free_ports
from tests.waiting import patience, wait_for
from workers.process.drain import Drain
from workers.process.journey import process
from workers.process.lease import LeaseKeeper
from workers.process.task import process_image
from workers.process.workplace import Workplace
from workers.triton.client import TritonClient

JOB = job_of(3)
LEDGER = LedgerSettings(
    lease=0.4, heartbeat=0.1, queued_look=0.2, max_transient=2, first_pause=0.05, longest_pause=0.1
)
AWAY = {"endpoint_url": "http://127.0.0.1:9", "connect_timeout": 0.1, "read_timeout": 0.1}
REFUSED = {"secret_access_key": None, "access_key_id": None}
OFTEN = max(LEDGER.max_transient, LEDGER.max_crashes) + 1
"""Times that would be too many, if they counted."""


def record(attempt):
    now = datetime.now(UTC)
    source = SourceInfo(uri=JOB.source, sha256="ab", bytes=1, media_type="image/png", height=1, width=1)
    return ResultRecord(
        batch="b",
        index=3,
        name="x.jpg",
        source=source,
        stages={},
        attempt=attempt,
        worker="w",
        started=now,
        finished=now,
        seconds={},
        software="0",
    )


class Pipeline:
    """Stands in for the pipeline: does what the test says, and remembers how often it was called."""

    def __init__(self, *acts):
        self.acts = list(acts)
        self.calls = 0

    def __call__(self, job, *, attempt, alive, **_):
        self.calls += 1
        act = self.acts.pop(0) if self.acts else None
        if isinstance(act, Exception):
            raise act
        if callable(act):
            act(alive)
        return record(attempt)


@pytest.fixture
def place(empty_redis, empty_store):
    settings = Settings(redis=empty_redis, store=empty_store, ledger=LEDGER)
    ledger = Ledger(empty_redis, LEDGER)
    drain = Drain(grace=30)
    keeper = LeaseKeeper(ledger, "w", LEDGER.heartbeat, drain)
    keeper.start()
    store, client = ObjectStore(empty_store), TritonClient(settings.triton)
    place = Workplace(settings, store, ledger, client, keeper, drain, "w", Pipeline())
    enqueue(place, JOB)
    yield place
    place.close()
    assert ledger.slots.live() == 0


def enqueue(place, job):
    assert place.ledger.images.enqueue(messages_of([job], place.settings.redis)) == 1


def deliver(place, job=JOB):
    process_image(place, signed(job, place.settings.redis.signing_key))


def test_a_message_of_a_later_version_is_left_to_those_that_know_it(place):
    process_image(place, {**JOB.to_message(), "format": FORMAT + 1, "urgency": "high"})
    assert isinstance(place.ledger.images.claim(JOB, "another"), Claim)


def wait_due(place):
    return wait_for(lambda: place.ledger.images.requeue("o", 10), 5, "something due")[0]


def result(place):
    return ResultRecord.model_validate_json(place.store.get(place.store.bucket, layout.result("b", 3)))


def failure(place):
    return FailureRecord.model_validate_json(place.store.get(place.store.bucket, layout.failure("b", 3)))


def store_with(place, **changes):
    """The store as a worker sees it whose settings are wrong, or that cannot reach it."""
    return ObjectStore(place.settings.store.model_copy(update=changes))


def test_a_result_is_recorded_and_counted(place):
    deliver(place)
    assert result(place).attempt == 1
    assert place.ledger.images.claim(JOB, "x") == "finished"
    assert place.ledger.images.in_flight() == 0


def test_a_second_message_for_the_same_image_does_nothing(place):
    deliver(place)
    deliver(place)
    assert place.process.calls == 1


def test_bad_input_fails_at_once_with_its_reason(place):
    place.process = Pipeline(BadInput("the file is empty", reason="empty_file"))
    deliver(place)
    written = failure(place)
    assert (written.reason, written.message, written.permanent, written.attempts) == (
        "empty_file",
        "the file is empty",
        True,
        1,
    )
    assert place.ledger.images.claim(JOB, "x") == "finished"
    with pytest.raises(ObjectNotFound):
        result(place)


def test_a_transient_failure_is_tried_again_and_may_succeed(place):
    place.process = Pipeline(InferenceUnavailable("Triton is away"))
    deliver(place)
    assert wait_due(place).why == "resend"
    deliver(place)
    assert result(place).attempt == 2
    with pytest.raises(ObjectNotFound):
        failure(place)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InferenceUnavailable("Triton is away"), "inference_unavailable"), (ZeroDivisionError(), "internal_error")],
)
def test_after_the_last_try_the_failure_is_final_but_not_called_permanent(place, error, reason):
    place.process = Pipeline(error, error)
    deliver(place)
    wait_due(place)
    deliver(place)
    written = failure(place)
    assert (written.reason, written.permanent, written.attempts) == (reason, False, 2)
    assert place.ledger.images.in_flight() == 0


def test_a_triton_that_is_away_costs_the_image_nothing_however_long(place):
    whole, place.process = place.process, process
    place.client = TritonClient(TritonSettings(url=f"127.0.0.1:{free_ports(1)[0]}"))
    for _ in range(OFTEN):
        deliver(place)
        assert not place.ledger.batches.is_finished("b", 3)
        assert wait_due(place).why == "resend"
    place.process = whole
    deliver(place)
    assert result(place).attempt == OFTEN + 1
    with pytest.raises(ObjectNotFound):
        failure(place)


def test_an_image_that_kills_triton_ends_although_triton_is_away_after_each_time(place):
    killed, away = InferenceUnavailable("Socket closed"), InferenceAway("connection refused")
    acts = [killed, away, away] * LEDGER.max_transient
    place.process = Pipeline(*acts)
    while not place.ledger.batches.is_finished("b", 3):
        deliver(place)
        if place.ledger.images.in_flight():
            wait_due(place)
    assert failure(place).reason == "inference_unavailable"
    assert place.process.calls == 3 * LEDGER.max_transient - 2


@pytest.mark.parametrize("changes", [AWAY, REFUSED])
def test_a_result_that_cannot_be_written_costs_the_image_nothing(place, changes):
    whole, place.store = place.store, store_with(place, **changes)
    for _ in range(OFTEN):
        deliver(place)
        assert wait_due(place).why == "resend"
    place.store = whole
    deliver(place)
    assert result(place).attempt == OFTEN + 1


@pytest.mark.parametrize("changes", [AWAY, REFUSED])
def test_a_failure_that_cannot_be_recorded_is_not_counted_and_not_lost(place, changes):
    whole, place.store = place.store, store_with(place, **changes)
    bad = BadInput("the file is empty", reason="empty_file")
    place.process = Pipeline(*[bad] * (OFTEN + 1))
    for _ in range(OFTEN):
        deliver(place)
        assert not place.ledger.batches.is_finished("b", 3)
        assert wait_due(place).why == "resend"
    place.store = whole
    deliver(place)
    assert (failure(place).reason, failure(place).attempts) == ("empty_file", OFTEN + 1)
    assert place.ledger.batches.is_finished("b", 3)


def test_credentials_that_expire_never_dead_letter_an_image(place):
    place.process = Pipeline(*[StoreRefused("renew the credentials")] * OFTEN)
    for _ in range(OFTEN):
        deliver(place)
        assert wait_due(place).why == "resend"
    deliver(place)
    assert result(place).attempt == OFTEN + 1
    with pytest.raises(ObjectNotFound):
        failure(place)


def test_redis_may_be_away_for_a_while_when_an_image_is_finished(place, monkeypatch):
    finish, tries = place.ledger.images.finish, []

    def cut(*args, **more):
        tries.append(args)
        if len(tries) < 4:
            raise LedgerUnavailable("cut")
        return finish(*args, **more)

    monkeypatch.setattr(place.ledger.images, "finish", cut)
    deliver(place)
    assert len(tries) == 4
    assert place.ledger.batches.is_finished("b", 3)


def test_where_redis_stays_away_the_next_attempt_finds_the_record(place):
    def away(*_, **__):
        raise LedgerUnavailable("away")

    place.patience = 0.2
    finish, place.ledger.images.finish = place.ledger.images.finish, away
    deliver(place)
    assert not place.ledger.batches.is_finished("b", 3)
    place.ledger.images.finish = finish
    assert wait_due(place).why == "expired"
    deliver(place)
    assert place.process.calls == 1
    assert place.ledger.batches.is_finished("b", 3)


def test_an_image_waits_for_the_one_with_the_same_content(place):
    double = job_of(4, duplicate_of=3)
    enqueue(place, double)
    for _ in range(LEDGER.max_crashes + LEDGER.max_transient):
        deliver(place, double)
        assert place.ledger.snapshot().states["waiting"] == 1
        assert place.process.calls == 0
        wait_due(place)
    deliver(place)
    deliver(place, double)
    assert place.process.calls == 2
    assert place.ledger.batches.is_finished("b", 4)


def test_the_side_run_of_a_canary_comes_after_the_outcome(place):
    seen = []
    shadow = Shadow(canary="c", models={Stage.SEGMENT: ModelChoice(name="new")})
    job = job_of(4, shadow=shadow)

    def look(job, record, *, store, client, limits, alive, decode):
        alive()
        seen.append((job.shadow, record.attempt, place.ledger.batches.is_finished("b", 4), limits))
        place.ledger.batches.is_finished("b", 4)

    place.shadow = look
    enqueue(place, job)
    deliver(place, job)
    deliver(place)  # has none
    assert seen == [(shadow, 1, True, place.settings.worker)]


def test_a_failed_image_has_no_side_run(place):
    place.shadow = None
    place.process = Pipeline(BadInput("the file is empty", reason="empty_file"))
    job = job_of(4, shadow=Shadow(canary="c", models={}))
    enqueue(place, job)
    deliver(place, job)
    assert place.ledger.batches.is_finished("b", 4)


def test_at_the_end_of_the_worker_an_image_that_asks_is_given_back_at_once(place):
    ended = []
    place.keeper._leave = ended.append

    def slow(alive):
        place.drain.begin_at_once()
        until = time.monotonic() + patience(5)
        while time.monotonic() < until:
            alive()
            time.sleep(0.01)

    place.process = Pipeline(slow)
    deliver(place)
    assert wait_due(place).why == "resend"
    assert place.drain.counts == {"finished": 0, "given_back": 1}
    # It takes nothing any more; what it was sent anyway is made due again.
    place.ledger.images._redis.delete(QUEUES["bulk"])
    deliver(place)
    assert place.process.calls == 1
    assert wait_due(place).why == "resend"
    assert ended == []


def test_at_the_end_of_the_worker_an_image_that_does_not_ask_is_given_back_and_the_process_ended(place):
    ended = threading.Event()
    place.keeper._leave = lambda code: ended.set()

    def stubborn(alive):
        place.drain.begin_at_once()
        assert wait_due(place).why == "resend"
        assert place.ledger.images.claim(JOB, "another worker").attempt == 2
        assert ended.wait(10)

    place.process = Pipeline(stubborn)
    deliver(place)
    assert place.drain.counts["given_back"] == 1


def test_images_that_end_within_the_grace_are_counted(place):
    place.process = Pipeline(lambda alive: place.drain.begin())
    deliver(place)
    assert result(place).attempt == 1
    assert place.drain.counts == {"finished": 1, "given_back": 0}


def test_a_record_written_by_an_attempt_that_fell_silent_is_not_made_again(place):
    place.ledger.images.claim(JOB, "dead")
    place.store.put_if_absent(layout.result("b", 3), record(1).to_json(), "application/json")
    assert wait_due(place).why == "expired"
    deliver(place)
    assert place.process.calls == 0
    assert result(place).attempt == 1
    assert place.ledger.images.claim(JOB, "x") == "finished"


def test_where_the_results_may_be_written_but_not_read_a_second_attempt_goes_on(place, monkeypatch):
    def forbidden(*_):
        raise PermanentError("the object store refuses to get", reason="access_denied")

    monkeypatch.setattr(place.store, "get", forbidden)
    place.process = Pipeline(InferenceUnavailable("Triton is away"))
    deliver(place)
    wait_due(place)
    deliver(place)
    monkeypatch.undo()
    assert result(place).attempt == 2


def test_of_two_results_the_first_stays(place):
    def other_writer(alive):
        place.store.put_if_absent(layout.result("b", 3), record(99).to_json(), "application/json")

    place.process = Pipeline(other_writer)
    deliver(place)
    assert result(place).attempt == 99
    assert place.ledger.images.claim(JOB, "x") == "finished"


def test_work_longer_than_a_lease_is_kept_alive(place):
    def slow(alive):
        for _ in range(12):
            time.sleep(0.1)
            assert place.ledger.images.requeue("o", 10) == []
            alive()

    place.process = Pipeline(slow)
    deliver(place)
    assert result(place).attempt == 1


def test_a_worker_that_lost_its_lease_stops_and_leaves_the_image_to_the_other(place):
    def loses(alive):
        place.keeper._held = None  # its heartbeats do not arrive
        assert wait_due(place).why == "expired"
        other = place.ledger.images.claim(JOB, "other")
        assert other.attempt == 2
        place.keeper._held = held
        deadline = time.monotonic() + patience(5)
        while time.monotonic() < deadline:
            assert place.ledger.images.heartbeat(other)
            time.sleep(0.05)
            alive()
        raise AssertionError("the loss was not noticed")

    held = None
    hold = place.keeper.hold

    def remember(claim):
        nonlocal held
        held = claim
        return hold(claim)

    place.keeper.hold = remember
    place.process = Pipeline(loses)
    deliver(place)
    assert place.ledger.images.claim(JOB, "x") == "taken"
    with pytest.raises(ObjectNotFound):
        result(place)
