"""A real worker that notes which image each of its processes has, so that poison can be told from a defect.

``python -m benchmarks.killloop.worker [--real]``, settings from its environment: with the no-op work, or with the
real pipeline.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermbatch.records import ImageJob, ResultRecord
from dermbatch.settings import load

if TYPE_CHECKING:
    from workers.process.workplace import Process

HANDS = "KILLLOOP_HANDS"
"""Variable that names a folder: the file ``<pid>`` in it says which image that pool process was given last."""


def noting(process: Process, folder: Path) -> Process:
    """The same work, with a note of the image in the file ``<pid>`` first."""

    def run(job: ImageJob, **rest: Any) -> ResultRecord:
        (folder / str(os.getpid())).write_text(str(job.index))
        return process(job, **rest)

    return run


def main() -> None:
    """Run a worker until SIGTERM."""
    settings = load()
    with tempfile.TemporaryDirectory(prefix="dermbatch-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before the app is imported, as in workers/__main__.py
        from benchmarks.killloop import work  # noqa: PLC0415
        from workers.process import journey  # noqa: PLC0415
        from workers.process.app import create_app, worker_arguments  # noqa: PLC0415

        process = journey.process if "--real" in sys.argv else work.process
        app = create_app(settings, noting(process, Path(os.environ[HANDS])))
        app.worker_main(worker_arguments(settings))


if __name__ == "__main__":
    main()
