"""Planned batches, a dispatcher, and workers that process nothing: they only say what became of an image."""

import redis
from celery import Celery

from dermbatch import layout
from dermbatch.ledger import Claim, Ledger
from dermbatch.ledger.queue import QUEUES, celery_config
from dermbatch.records.asked import ModelChoice, Order
from dermbatch.settings import LedgerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.dispatch.closer import Closer
from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.dispatch.messages import Messages, job_of
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.planner import plan
from orchestrator.steering.controls import begin
from orchestrator.steering.reconciler import reconcile
from tests.outcome_samples import failure_of, result_of, write_record

LEDGER = LedgerSettings(lease=0.3, heartbeat=0.1, queued_look=30, max_crashes=1, window_per_slot=3, window_most=1)


def there(count, prefix="x"):
    """Objects of a bucket, as the intake finds them."""
    return [Candidate(f"{prefix}{n}", uri=f"s3://bucket/{prefix}{n}", size=1) for n in range(count)]


class Orchestra:
    """All of the orchestrator but its loop, and its workers."""

    def __init__(self, redis_settings, store_settings, ledger_settings=LEDGER, choose=lambda job: job):
        self.store = ObjectStore(store_settings)
        self.ledger = Ledger(redis_settings, ledger_settings)
        self.client = redis.Redis.from_url(redis_settings.url, decode_responses=True)
        self.app = Celery("tests")
        self.app.conf.update(celery_config(redis_settings))
        self._signing = redis_settings.signing_key
        messages = Messages(self.app, self._signing)
        self.dispatcher = Dispatcher(self.store, self.ledger, messages, ledger_settings, "o", choose)
        self.closer = Closer(self.store, self.ledger, 4, self._signing)

    def plan(self, candidates, name="b", lane="bulk", **more):
        """A batch as ``dermbatch submit`` leaves it."""
        order = Order(models={Stage.SEGMENT: ModelChoice(name="m")}, stages=(Stage.SEGMENT,), lane=lane, **more)
        batch = plan(name, order, candidates if not isinstance(candidates, int) else there(candidates), self.store)
        begin(self.store, self.ledger, batch)
        return batch

    def take(self, lane="bulk"):
        """The jobs of all messages in the queue of a lane."""
        jobs = []
        while payload := self.client.rpop(QUEUES[lane]):
            jobs.append(job_of(payload, self._signing))
        return jobs

    def done(self, *jobs):
        """A worker finishes images: the record, then the ledger."""
        for job in jobs:
            write_record(self.store, result_of(job.batch, job.index, stages=(Stage.SEGMENT,), preview=b""))
            self.ledger.images.finish(job, self.claim(job).owner, "done")

    def failed(self, *jobs, reason="truncated"):
        """A worker records failures."""
        for job in jobs:
            write_record(self.store, failure_of(job.batch, job.index, reason))
            self.ledger.images.finish(job, self.claim(job).owner, "failed", reason)

    def claim(self, job, owner="w/1"):
        claim = self.ledger.images.claim(job, owner)
        assert isinstance(claim, Claim), claim
        return claim

    def work_off(self, turns=200):
        """Feed, and finish all, until nothing more comes."""
        found = []
        for _ in range(turns):
            self.dispatcher.repair()
            self.dispatcher.feed()
            jobs = self.take("live") + self.take("bulk")
            if not jobs:
                return found
            self.done(*jobs)
            found += jobs
        raise AssertionError("it does not end")

    def close(self):
        """Close what is ready, and wait for it."""
        self.closer.look()
        for future in list(self.closer._closing.values()):
            future.result(60)
        self.closer.look()

    def reconcile(self):
        return reconcile(self.store, self.ledger)

    def state(self, name="b"):
        return self.ledger.batches.get(name)

    def key(self, key):
        """The object of the result bucket with this key; none where there is none."""
        found = [info.key for info in self.store.list(self.store.bucket, key)]
        return self.store.get(self.store.bucket, key) if key in found else None

    def control(self, name="b"):
        return self.key(layout.control(name))

    def end(self):
        self.closer.stop()
        self.app.close()
        self.client.close()
