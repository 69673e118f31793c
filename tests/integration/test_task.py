"""The task's shell with a real ledger and a real store; the pipeline inside is a stand-in."""

import time
from datetime import UTC, datetime

import pytest

from dermbatch import layout
from dermbatch.errors import BadInput, InferenceUnavailable, ObjectNotFound
from dermbatch.ledger import Ledger
from dermbatch.records import FailureRecord, ImageJob, ModelChoice, ResultRecord, SourceInfo
from dermbatch.settings import LedgerSettings, Settings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from workers.inference import TritonClient
from workers.lease import LeaseKeeper
from workers.task import Workplace, process_image

JOB = ImageJob(
    batch="b",
    index=3,
    name="x.jpg",
    source="s3://incoming/b/3",
    stages=(Stage.SEGMENT,),
    models={Stage.SEGMENT: ModelChoice(name="m")},
)
LEDGER = LedgerSettings(
    lease=0.4, heartbeat=0.1, queued_look=0.2, max_transient=2, first_pause=0.05, longest_pause=0.1
)


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
    keeper = LeaseKeeper(ledger, "w", LEDGER.heartbeat)
    keeper.start()
    place = Workplace(
        settings, ObjectStore(empty_store), ledger, TritonClient(settings.triton), keeper, "w", Pipeline()
    )
    ledger.enqueue(JOB)
    yield place
    place.close()
    assert ledger.live_slots() == 0


def deliver(place):
    process_image(place, JOB.model_dump(mode="json"))


def wait_due(place):
    deadline = time.monotonic() + 5
    while not (due := place.ledger.requeue("o")):
        assert time.monotonic() < deadline, "nothing became due"
        time.sleep(0.02)
    return due[0]


def result(place):
    return ResultRecord.model_validate_json(place.store.get(place.store.bucket, layout.result("b", 3)))


def failure(place):
    return FailureRecord.model_validate_json(place.store.get(place.store.bucket, layout.failure("b", 3)))


def test_a_result_is_recorded_and_counted(place):
    deliver(place)
    assert result(place).attempt == 1
    assert place.ledger.claim(JOB, "x") == "finished"
    assert place.ledger.in_flight() == 0


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
    assert place.ledger.claim(JOB, "x") == "finished"
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
    assert place.ledger.in_flight() == 0


def test_a_record_written_by_an_attempt_that_fell_silent_is_not_made_again(place):
    place.ledger.claim(JOB, "dead")
    place.store.put_if_absent(layout.result("b", 3), record(1).to_json(), "application/json")
    assert wait_due(place).why == "expired"
    deliver(place)
    assert place.process.calls == 0
    assert result(place).attempt == 1
    assert place.ledger.claim(JOB, "x") == "finished"


def test_of_two_results_the_first_stays(place):
    def other_writer(alive):
        place.store.put_if_absent(layout.result("b", 3), record(99).to_json(), "application/json")

    place.process = Pipeline(other_writer)
    deliver(place)
    assert result(place).attempt == 99
    assert place.ledger.claim(JOB, "x") == "finished"


def test_work_longer_than_a_lease_is_kept_alive(place):
    def slow(alive):
        for _ in range(12):
            time.sleep(0.1)
            assert place.ledger.requeue("o") == []
            alive()

    place.process = Pipeline(slow)
    deliver(place)
    assert result(place).attempt == 1


def test_a_worker_that_lost_its_lease_stops_and_leaves_the_image_to_the_other(place):
    def loses(alive):
        place.ledger._redis.hset("dermbatch:states", JOB.member, "queued||1|1|0")
        assert place.ledger.claim(JOB, "other").attempt == 2
        time.sleep(0.3)
        alive()
        raise AssertionError("the loss was not noticed")

    place.process = Pipeline(loses)
    deliver(place)
    assert place.ledger.claim(JOB, "x") == "taken"
    with pytest.raises(ObjectNotFound):
        result(place)
