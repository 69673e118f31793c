"""Quotas on real servers: plans at one moment, and buckets that are watched."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.records.asked import ModelChoice, Order
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.planner import plan
from orchestrator.planning.tenants.quota import had, reservations
from orchestrator.planning.tenants.reservation import within
from orchestrator.planning.tenants.tenant import Quota, Tenant


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
