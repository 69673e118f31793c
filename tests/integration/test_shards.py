"""Batches shared by two Redis servers: each belongs to one, whoever is asked, and each shard works on its own."""

import os

import pytest
from orchestra import LEDGER, Orchestra
from pydantic import SecretStr, ValidationError

from dermbatch import layout
from dermbatch.records.asked import BatchControl
from dermbatch.settings import RedisSettings
from orchestrator.reporting.overview import overview, standing
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.servers.redis import redis_part
from orchestrator.steering import controls


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    part, settings = redis_part(folder, folder / "redis.log", free_ports(1)[0], base_environment(os.environ))
    part.start()
    try:
        part.wait()
        yield settings
    finally:
        part.stop()


@pytest.fixture
def shards(empty_redis, second, empty_store):
    urls = (SecretStr(empty_redis.url), SecretStr(second.url))
    both = [
        Orchestra(empty_redis.model_copy(update={"url": url.get_secret_value(), "shards": urls}), empty_store)
        for url in urls
    ]
    both[1].client.flushall()
    yield both
    for one in both:
        one.end()


def names(shards):
    """A name of a batch for each shard."""
    return [next(name for n in range(99) if one.ledger.owns(name := f"batch-{n}")) for one in shards]


def held(one):
    return [state.name for state in one.ledger.batches.all()]


def test_a_batch_goes_to_its_own_shard_whoever_plans_it_and_stays_there(shards):
    here, there = names(shards)
    shards[0].plan(3, there)
    shards[1].plan(3, here)
    assert (held(shards[0]), held(shards[1])) == ([here], [there])
    assert [one.reconcile() for one in shards] == [[], []]
    shards[1].client.flushall()
    assert [one.reconcile() for one in shards] == [[], [there]]
    assert (held(shards[0]), held(shards[1])) == ([here], [there])


def test_each_shard_works_its_batches_off_and_closes_them(shards):
    both = names(shards)
    for name in both:
        shards[0].plan(12, name)
    jobs = [one.work_off() for one in shards]
    assert [{job.batch for job in done} for done in jobs] == [{name} for name in both]
    assert [len(done) for done in jobs] == [12, 12]
    for one, name in zip(shards, both, strict=True):
        one.close()
        assert b'"done":12' in one.key(layout.summary(name))
    assert [held(one) for one in shards] == [[], []]


def test_commands_reach_every_batch_through_any_shard(shards):
    here, there = names(shards)
    for name in (here, there):
        shards[0].plan(4, name)
    for one in shards:
        found = overview(one.store, one.ledger)
        assert {batch.name: batch.state for batch in found.batches} == {here: "open", there: "open"}
    controls.pause(shards[0].store, shards[0].ledger, there)
    assert shards[1].state(there).control == BatchControl(state="paused", why="paused by hand")
    assert standing(shards[0].store, shards[0].ledger, there).batches[0].state == "paused"
    shards[1].dispatcher.feed()
    assert shards[1].take() == []
    controls.resume(shards[0].store, shards[0].ledger, there)
    assert {job.batch for job in shards[1].work_off()} == {there}


def test_a_shard_that_is_gone_holds_up_its_own_batches_alone(shards, second):
    here, there = names(shards)
    shards[0].plan(4, here)
    shards[0].plan(4, there)
    shards[1].client.flushall()  # all that it knew
    assert len(shards[0].work_off()) == 4
    assert shards[1].reconcile() == [there]
    assert len(shards[1].work_off()) == 4


def test_the_window_of_leases_is_each_shards_own(shards):
    assert [one.ledger.slots.lead("o", LEDGER.lease) for one in shards] == [True, True]


def test_a_redis_that_is_none_of_the_shards_is_refused():
    with pytest.raises(ValidationError, match="one of the shards"):
        RedisSettings(url="redis://a", shards=("redis://b", "redis://c"))
