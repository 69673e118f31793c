"""Messages made here are those that Celery would have written."""

import json
from base64 import b64decode

import pytest
from celery import Celery
from messages import job_of as job
from noting import noted

from dermbatch.ledger import Ledger
from dermbatch.ledger.queue import QUEUES, TASK, celery_config
from dermbatch.records.asked import ModelChoice, Shadow
from dermbatch.settings import LedgerSettings
from dermbatch.stages import Stage
from orchestrator.dispatch.messages import Messages, job_of


@pytest.fixture
def app(empty_redis):
    with Celery("tests") as app:
        app.conf.update(celery_config(empty_redis))
        yield app


def without(message, *names):
    return {name: value for name, value in message.items() if name not in names}


@pytest.mark.parametrize("lane", ["live", "bulk"])
def test_a_message_is_what_celery_itself_writes(app, redis_client, lane):
    asked = job(3)
    app.send_task(
        TASK,
        args=[asked.to_message()],
        queue=QUEUES[lane],
        ignore_result=True,
        argsrepr="",
    )
    (payload,) = redis_client.lrange(QUEUES[lane], 0, -1)
    theirs, made = json.loads(payload), Messages(app).of(asked, lane)
    ours = json.loads(made.payload)
    assert made.queue == QUEUES[lane]
    assert made.job == asked
    assert set(ours) == set(theirs)
    for name in ("content-encoding", "content-type"):
        assert ours[name] == theirs[name]
    ids = ("id", "root_id")
    assert without(ours["headers"], *ids) == without(theirs["headers"], *ids)
    assert ours["headers"]["id"] == ours["headers"]["root_id"] == ours["properties"]["correlation_id"]
    # Celery passes the argument on to where nobody reads it.
    changing = ("correlation_id", "reply_to", "delivery_tag", "body_encoding", "argsrepr")
    assert without(ours["properties"], *changing) == without(theirs["properties"], *changing)
    unread = ("reply_to", "argsrepr")
    assert set(without(ours["properties"], *unread)) == set(without(theirs["properties"], *unread))
    assert json.loads(ours["body"]) == json.loads(b64decode(theirs["body"]))


def test_no_two_messages_are_taken_for_one_and_none_names_a_file_in_its_headers(app):
    messages = [json.loads(Messages(app).of(job(0, name="Müller^Eva.jpg"), "bulk").payload) for _ in range(2)]
    for find in (lambda m: m["headers"]["id"], lambda m: m["properties"]["delivery_tag"]):
        assert find(messages[0]) != find(messages[1])
    assert messages[0]["headers"]["argsrepr"] == ""
    assert "ller" not in json.dumps({**messages[0], "body": ""})


def test_a_job_survives_its_message(app):
    shadow = Shadow(canary="c", models={Stage.SEGMENT: ModelChoice(name="m", version="2")})
    asked = job(7, name="ein Bild ü \"'.png", size=5, etag="e", duplicate_of=3, shadow=shadow)
    assert job_of(Messages(app).of(asked, "live").payload) == asked


def test_a_real_worker_runs_it(app, redis_client, empty_redis, tmp_path):
    ledger = Ledger(empty_redis, LedgerSettings())
    asked = [job(index, name=f"{index} ü.png") for index in range(2)]
    for one, lane in zip(asked, ("live", "bulk"), strict=True):
        assert ledger.images.enqueue([Messages(app).of(one, lane)]) == 1
    log = noted(empty_redis, tmp_path / "worker.log", lambda: redis_client.llen("tests:taken") >= 2)
    taken = sorted(
        map(json.loads, redis_client.lrange("tests:taken", 0, -1)), key=lambda message: message["index"]
    )
    assert taken == [one.to_message() for one in asked]
    assert "png" not in log
