"""A real worker that notes which image each of its processes has, so that poison can be told from a defect.

``python -m benchmarks.killloop.worker [--real]``, settings from its environment: with the no-op work, or with the
real pipeline.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.killloop import work as no_op
from benchmarks.worker import run
from dermbatch.records.asked import ImageJob
from dermbatch.records.outcome import ResultRecord

if TYPE_CHECKING:
    from workers.process.workplace import Process

HANDS = "KILLLOOP_HANDS"
"""Variable that names a folder: the file ``<pid>`` in it says which image that pool process was given last, as
``batch:index``."""


def noting(process: Process, folder: Path) -> Process:
    """The same work, with a note of the image in the file ``<pid>`` first."""

    def run(job: ImageJob, **rest: Any) -> ResultRecord:
        (folder / str(os.getpid())).write_text(job.member)
        return process(job, **rest)

    return run


def main() -> None:
    """Run a worker until SIGTERM."""
    work = pipeline if "--real" in sys.argv else no_op.process
    run(noting(work, Path(os.environ[HANDS])), tasks_never_fail=False)


def pipeline(job: ImageJob, **rest: Any) -> ResultRecord:
    """The real one; imported late, as all of the worker is."""
    from workers.process.journey import process  # noqa: PLC0415

    return process(job, **rest)


if __name__ == "__main__":
    main()
