"""``python -m workers``: a Celery worker, configured by ``DERMBATCH_*`` variables."""

from __future__ import annotations

import os
import sys
import tempfile

from dermbatch.errors import UsageError
from dermbatch.queue import QUEUES
from dermbatch.settings import load


def main() -> None:
    """Run a worker until SIGTERM."""
    try:
        settings = load()
    except UsageError as error:
        sys.exit(f"dermbatch: {error}")
    with tempfile.TemporaryDirectory(prefix="dermbatch-metrics-") as folder:
        # prometheus_client chooses its multi-process storage when it is imported, so this comes before the app.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from workers.app import create_app  # noqa: PLC0415

        create_app(settings).worker_main(
            [
                "worker",
                "--pool=prefork",
                f"--concurrency={settings.worker.concurrency}",
                f"--queues={QUEUES['live']},{QUEUES['bulk']}",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ]
        )


if __name__ == "__main__":
    main()
