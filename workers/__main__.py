"""``python -m workers``: a Celery worker, configured by ``DERMBATCH_*`` variables."""

from __future__ import annotations

import os
import sys
import tempfile

from dermbatch.errors import UsageError
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
        from workers.process.app import create_app, worker_arguments  # noqa: PLC0415

        create_app(settings).worker_main(worker_arguments(settings))


if __name__ == "__main__":
    main()
