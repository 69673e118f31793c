"""Quotas on real servers: plans at one moment, and buckets that are watched."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from watched import BUCKET, Watched, batches, packed, uri

from dermbatch import layout, metrics
from dermbatch.errors import UsageError
from dermbatch.records.asked import ModelChoice, Order
from dermbatch.settings import TenantSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.planner import plan
from orchestrator.planning.tenants.quota import had, reservations
from orchestrator.planning.tenants.reservation import within
from orchestrator.planning.tenants.tenant import Quota, Tenant
from orchestrator.watching.rules.rules import Rule
from tests.waiting import wait_for

RULE = Rule(name="all", prefix=f"s3://{BUCKET}", tenant="clinic-a")


@pytest.fixture
def watched(empty_redis, empty_store, tmp_path):
    """A bucket of a tenant, whose quota can be changed."""
    found = Watched(empty_redis, empty_store)
    file = tmp_path / "tenants.yaml"
    found.settings = found.settings.model_copy(update={"tenants": TenantSettings(file=file)})

    def allow(**quota):
        limits = ", ".join(f"{name}: {most}" for name, most in quota.items())
        tenant = f"name: clinic-a, prefixes: ['s3://{BUCKET}'], quota: {{{limits}}}"
        file.write_text(f"tenants: [{{{tenant}}}]")

    found.allow = allow
    return found


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


def test_of_many_plans_at_one_moment_as_many_become_batches_as_the_quota_allows(store):
    tenant = Tenant(name="clinic-a", quota=Quota(images_a_month=45))
    order = Order(models={stage: ModelChoice(name="m") for stage in Stage}, tenant="clinic-a")
    walk = [Candidate(name=f"{n}.png", uri=f"s3://incoming/{n}.png", size=10) for n in range(10)]

    def planned(number):
        name = f"clinic-a.{number}"
        try:
            with within(store, tenant, name) as check:
                return plan(name, order, walk, store, check=check).images
        except UsageError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        images = sum(pool.map(planned, range(8)))
    assert images == had(store, "clinic-a", datetime.now(UTC)).images == 40
    assert reservations(store, "clinic-a")[0].batches == {}, "all are batches, or were refused"
    assert store.get(store.bucket, layout.tenant_quota("clinic-a"))


def test_what_is_beyond_a_quota_waits_in_its_bucket_and_is_taken_in_when_there_is_room(watched):
    waits = metrics.WATCH_HELD_OBJECTS.labels("clinic-a")._value
    for n in range(30):
        watched.put(f"in/{n:02d}.jpg")
    watched.allow(images_a_month=20)
    for more in (range(20), range(20)):  # the second time, too: after a restart
        watched.once(RULE)
        assert watched.taken == {uri(f"in/{n:02d}.jpg"): 1 for n in more}
        found = had(watched.store, "clinic-a", datetime.now(UTC))
        assert (found.images, waits.get()) == (20, 10)
        assert "is 20 images" in found.watching
    watched.allow(images_a_month=25)
    watched.once(RULE)
    assert (sum(watched.taken.values()), waits.get()) == (25, 5)
    watched.allow()
    watched.once(RULE)
    assert watched.taken == {uri(f"in/{n:02d}.jpg"): 1 for n in range(30)}
    assert (waits.get(), had(watched.store, "clinic-a", datetime.now(UTC)).watching) == (0, None)


def test_a_watcher_that_runs_goes_on_when_the_quota_allows(watched):
    watched.allow(open_images=0)
    watched.put("in/a.jpg")
    with watched.running(RULE):
        wait_for(lambda: had(watched.store, "clinic-a", datetime.now(UTC)).watching, what="that it is held")
        assert batches(watched.store) == []
        watched.allow(open_images=1)
        watched.has("in/a.jpg")


def test_an_archive_beyond_a_quota_is_taken_in_as_far_as_it_goes_and_gone_on_with(watched):
    names = [f"{n}.jpg" for n in range(6)]
    watched.put("in/a.zip", packed(*names), image=b"")
    watched.put("in/b.jpg")
    watched.allow(bytes_a_month=4 * len(packed(*names)), images_a_month=4)
    later = datetime.now(UTC) + timedelta(days=2)
    for clock in (None, lambda: later):  # the batch is kept open while the rest of the archive waits
        watched.once(RULE, clock=clock)
        assert sum(watched.taken.values()) == 4
        assert [batch.growing for batch in batches(watched.store)] == [True]
    watched.allow(images_a_month=7)
    watched.once(RULE)
    assert watched.taken == {uri("in/b.jpg"): 1} | {f"{uri('in/a.zip')}/{name}": 1 for name in names}
