"""A worker as ``python -m workers`` starts it, but the pipeline only sleeps: a program for tests.

The image's name says for how long, and how: ``sleep 2.5`` naps and looks for news, ``stubborn 60`` does not.
"""

import os
import tempfile
import time
from datetime import UTC, datetime


def sleep(job, *, attempt, worker, alive, **_):
    from dermbatch.records.outcome import ResultRecord, SourceInfo

    how, seconds = job.name.split()
    started = datetime.now(UTC)
    until = time.monotonic() + float(seconds)
    if how == "stubborn":
        time.sleep(float(seconds))
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(0.05, left))
        alive()
    return ResultRecord(
        batch=job.batch,
        index=job.index,
        name=job.name,
        source=SourceInfo(uri=job.source, sha256="ab", bytes=1, media_type="image/png", height=1, width=1),
        stages={},
        attempt=attempt,
        worker=worker,
        started=started,
        finished=datetime.now(UTC),
        seconds={},
        software="0",
    )


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from dermbatch.settings import load
        from workers.process.app import create_app, worker_arguments

        settings = load()
        create_app(settings, sleep).worker_main(worker_arguments(settings))


if __name__ == "__main__":
    main()
