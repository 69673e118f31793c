"""Attacks on the queue: whoever can write into Redis makes a worker do nothing but what was asked for."""

import json
import threading
from contextlib import closing

import pytest
from messages import job_of as plain_job
from noting import noted
from orchestra import LEDGER, Orchestra
from pydantic import SecretStr

from dermbatch import layout
from dermbatch.errors import MessageDamaged, MessageRefused, NewerFormat
from dermbatch.ledger import Claim
from dermbatch.ledger.queue import QUEUES
from dermbatch.records.asked import FORMAT, ModelChoice, Shadow
from dermbatch.records.outcome import FailureRecord
from dermbatch.records.signature import opened, signed
from dermbatch.settings import RedisSettings, Settings
from dermbatch.stages import Stage
from dermbatch.stored import read
from orchestrator.dispatch.messages import Messages
from orchestrator.stack.servers.redis import redis_part
from orchestrator.steering import replay
from workers.process.drain import Drain
from workers.process.task import process_image
from workers.process.workplace import Workplace

KEY, OTHER = SecretStr("k" * 32), SecretStr("o" * 32)
QUICK = LEDGER.model_copy(update={"queued_look": 0.02})


@pytest.fixture
def orchestra(settings):
    """Whose messages are sent again as soon as they are seen to be lost."""
    orchestra = Orchestra(settings.redis, settings.store, QUICK)
    try:
        yield orchestra
    finally:
        orchestra.end()


class Forger:
    """Who can read and write all of Redis, and has no key."""

    def __init__(self, orchestra):
        self._orchestra, self._client = orchestra, orchestra.client

    def payload(self, lane="bulk"):
        return self._client.rpop(QUEUES[lane])

    def forge(self, payload, change):
        """The message with a changed job, in the ledger as well as in the queue."""
        outer = json.loads(payload)
        (job, *more), *rest = json.loads(outer["body"])
        forged = json.dumps({**outer, "body": json.dumps([[change(job), *more], *rest])})
        self.put(forged, f"{job['batch']}:{job['index']}")
        return forged

    def put(self, payload, member, lane="bulk"):
        self._client.hset("dermbatch:jobs", member, payload)
        self._client.lpush(QUEUES[lane], payload)


def work(orchestra, settings):
    """Deliver what is in the queue to a worker's task, as Celery does; the jobs that the pipeline was given."""
    taken = []

    class Done(Exception):
        pass

    def pipeline(job, **_):
        taken.append(job)
        raise Done

    place = Workplace(
        settings, orchestra.store, orchestra.ledger, None, FreeKeeper(), Drain(30), "w", process=pipeline
    )
    while payload := orchestra.client.rpop(QUEUES["bulk"]):
        try:
            message = json.loads(json.loads(payload)["body"])[0][0]
        except (ValueError, LookupError, TypeError, RecursionError):
            continue  # Celery drops what it cannot read
        process_image(place, message)
    return taken


class FreeKeeper:
    """Keeps no lease."""

    def working(self):
        return closing(self)

    def hold(self, claim):
        return closing(self)

    def close(self):
        pass

    def check(self):
        pass


@pytest.fixture
def settings(empty_redis, empty_store):
    redis = empty_redis.model_copy(update={"signing_key": KEY})
    return Settings(redis=redis, store=empty_store, ledger=QUICK)


def due(orchestra):
    """Wait until something has come due, and have it dealt with."""
    while not orchestra.dispatcher.repair():
        threading.Event().wait(0.01)


FORGERIES = {
    "source": lambda job: {**job, "source": "s3://patients/secret.dcm"},
    "another bucket's output": lambda job: {**job, "order": {**job["order"], "output": "s3://patients/x"}},
    "a PACS": lambda job: {**job, "order": {**job["order"], "send_to": "elsewhere"}},
    "models": lambda job: {**job, "order": {**job["order"], "models": {"segment": {"name": "evil"}}}},
    "another image's index": lambda job: {**job, "index": 1},
    "another batch": lambda job: {**job, "batch": "other"},
    "a way out of the batch": lambda job: {**job, "batch": "../../images"},
    "a canary": lambda job: {**job, "shadow": {"canary": "c", "models": {"segment": {"name": "evil"}}}},
    "no signature": lambda job: {name: value for name, value in job.items() if name != "signature"},
    "an empty signature": lambda job: {**job, "signature": ""},
    "a signature that is none": lambda job: {**job, "signature": ["x"]},
    "the size": lambda job: {**job, "size": 2},
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_message_is_not_done_and_the_image_is_all_the_same(orchestra, settings, change):
    orchestra.plan(1)
    orchestra.dispatcher.feed()
    forger = Forger(orchestra)
    asked = opened(json.loads(json.loads(good := forger.payload())["body"])[0][0], KEY)
    forger.forge(good, change)
    assert work(orchestra, settings) == []
    assert orchestra.client.hget("dermbatch:states", "b:0").startswith("queued|")  # nobody has claimed it
    taken = []
    while not taken and not orchestra.state().failed:
        due(orchestra)
        orchestra.dispatcher.feed()
        taken += work(orchestra, settings)
    if change is FORGERIES["a way out of the batch"]:  # that is no job at all
        record = read(orchestra.store, layout.failure("b", 0), FailureRecord)
        assert record.reason == "message_damaged"
        return
    assert taken == [asked]


UNREADABLE = {
    "no JSON": "{",
    "no message": "{}",
    "a list": "[]",
    "no arguments": json.dumps({"body": "[[], {}, {}]"}),
    "a number": json.dumps({"body": "[[5], {}, {}]"}),
    "a job without a source": json.dumps({"body": json.dumps([[{"batch": "b", "index": 0}], {}, {}])}),
    "deep": json.dumps({"body": "[" * 100_000}),
}


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
def test_a_job_that_cannot_be_parsed_ends_in_dead_letters(orchestra, settings, payload):
    orchestra.plan(1)
    orchestra.dispatcher.feed()
    orchestra.client.delete(QUEUES["bulk"])
    Forger(orchestra).put(payload, "b:0")
    deliveries = 0
    while orchestra.state().failed == 0:
        waiting = orchestra.client.lrange(QUEUES["bulk"], 0, -1)
        deliveries += waiting.count(payload)
        assert deliveries <= 3
        assert work(orchestra, settings) == []
        due(orchestra)
    record = read(orchestra.store, layout.failure("b", 0), FailureRecord)
    assert (deliveries, record.reason, record.attempts) == (3, "message_damaged", 3)
    assert (record.name, record.source) == ("x0", "s3://bucket/x0")
    assert "retry" in record.message
    assert payload not in orchestra.client.lrange(QUEUES["bulk"], 0, -1)
    assert orchestra.state().reasons == {"message_damaged": 1}


def test_a_message_of_a_later_format_is_given_back_untouched_as_often_as_it_comes(orchestra, settings):
    """As after a roll-back: the version that wrote it comes back later, and finds all as it left it."""
    orchestra.plan(1)
    orchestra.dispatcher.feed()
    forger = Forger(orchestra)
    message = {"format": FORMAT + 1, "what": ["x"], "seal": "x", "batch": "b", "index": 0}
    newer = forger.forge(forger.payload(), lambda job: message)
    record = layout.batch_record("b")
    stored = json.loads(orchestra.store.get(orchestra.store.bucket, record))
    later = json.dumps({**stored, "format": FORMAT + 1, "urgency": 1}).encode()
    orchestra.store.put(record, later, "application/json")
    for _ in range(6):
        assert work(orchestra, settings) == []
        due(orchestra)
        orchestra.dispatcher.feed()
        assert orchestra.client.lrange(QUEUES["bulk"], 0, -1) == [newer]
    assert orchestra.client.hget("dermbatch:jobs", "b:0") == newer
    assert orchestra.store.get(orchestra.store.bucket, record) == later
    assert (orchestra.state().state, orchestra.state().failed, orchestra.state().in_flight) == ("open", 0, 1)
    with pytest.raises(NewerFormat):
        opened({"format": FORMAT + 1}, KEY)
    assert isinstance(orchestra.ledger.images.claim(plain_job(0), "of the later version"), Claim)


def test_batches_of_before_are_signed_when_their_messages_are_seen_again(orchestra, settings):
    """As in an upgrade: the orchestrator before signed nothing, and workers of today are there already."""
    signing, orchestra.dispatcher._messages = orchestra.dispatcher._messages, Messages(orchestra.app)
    orchestra.plan(3)
    orchestra.dispatcher.feed()
    assert work(orchestra, settings) == []
    orchestra.dispatcher._messages = signing
    taken = []
    while len(taken) < 3:
        due(orchestra)
        orchestra.dispatcher.feed()
        taken += work(orchestra, settings)
    assert {job.index for job in taken} == {0, 1, 2}
    assert orchestra.state().failed == 0


def test_without_a_key_messages_are_as_they_were():
    job = plain_job(0)
    assert signed(job, None) == job.to_message()
    assert opened(signed(job, None), None) == opened(signed(job, KEY), None) == job


def test_only_what_was_signed_is_opened():
    shadow = Shadow(canary="c", models={Stage.SEGMENT: ModelChoice(name="m")})
    job = plain_job(
        7, name="ü\ud83d\ude00 \"'.png".encode("utf-16", "surrogatepass").decode("utf-16"), shadow=shadow
    )
    message = json.loads(json.dumps(signed(job, KEY)))
    assert opened(message, KEY) == job
    for wrong in (OTHER, SecretStr("")):
        with pytest.raises(MessageRefused):
            opened(message, wrong)
    for anything in (None, 5, [], "x", {}, {**message, "index": -1}, {**message, "source": "/etc/passwd"}):
        with pytest.raises(MessageDamaged):
            opened(anything, KEY)
    with pytest.raises(MessageRefused):  # a source that jobs of `run` may name, and nobody else put there
        opened({**message, "source": "file:///etc/passwd"}, KEY)
    for name in ("../x", "a..b", "A", "a/b", "", "x" * 101, "a\n"):
        with pytest.raises(MessageDamaged):
            opened({**message, "batch": name}, KEY)
        with pytest.raises(MessageDamaged):
            opened({**message, "shadow": {**message["shadow"], "canary": name}}, KEY)


def test_the_stack_keeps_its_key_with_its_queue(tmp_path):
    made = [redis_part(tmp_path / "redis", tmp_path / "log", 1, {})[1] for _ in range(2)]
    assert made[0].signing_key == made[1].signing_key
    assert made[0].url != made[1].url
    assert (tmp_path / "redis" / "signing.key").stat().st_mode & 0o777 == 0o600
    for secret in (made[0].signing_key.get_secret_value(), made[0].url.split(":")[2].split("@")[0]):
        assert secret not in repr(made[0]) + repr(Settings(redis=made[0])) + str(made[0])
    with pytest.raises(ValueError, match="signing_key"):
        RedisSettings(signing_key="short")


def test_a_dead_letter_of_the_queue_can_be_retried(orchestra, settings):
    orchestra.plan(1)
    orchestra.dispatcher.feed()
    orchestra.client.delete(QUEUES["bulk"])
    Forger(orchestra).put("{", "b:0")
    while orchestra.state().failed == 0:
        assert work(orchestra, settings) == []
        due(orchestra)
    orchestra.close()
    replay.retry(orchestra.store, orchestra.ledger, "b")
    orchestra.dispatcher.feed()
    assert [job.index for job in work(orchestra, settings)] == [0]


def test_a_real_worker_outlives_whatever_is_in_its_queue(orchestra, empty_redis, tmp_path):
    redis = empty_redis.model_copy(update={"signing_key": KEY})
    for payload in [*UNREADABLE.values(), "", "null", json.dumps({"properties": {}}), "[{}]"]:
        orchestra.client.lpush(QUEUES["live"], payload)
    orchestra.plan(1)
    orchestra.dispatcher.feed()
    log = noted(
        redis,
        tmp_path / "worker.log",
        lambda: orchestra.client.llen("tests:taken") and not orchestra.client.llen(QUEUES["live"]),
    )
    assert "a message was dropped" in log
