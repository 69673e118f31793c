"""A Celery worker of a benchmark: the real one around work of the benchmark's own, and it dies of a defect.

Celery goes on where a pool process could not open its workplace, or where the task raises: the exception is
logged, the messages are lost, and who waits for their images never learns why. A worker of a benchmark ends
instead, with the exception as the last lines of its log.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import traceback
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.utils.dispatch.signal import logger as signal_logger  # type: ignore[attr-defined]

from dermbatch.errors import DermbatchError
from dermbatch.records.outcome import ResultRecord
from dermbatch.settings import load

if TYPE_CHECKING:
    from workers.process.workplace import Process


def run(process: Process, *, store: type | None = None, tasks_never_fail: bool = True) -> None:
    """Run a worker until SIGTERM, with settings from its environment.

    Args:
        process: The work; it stands in for the pipeline.
        store: Stands in for the object store, where there is to be none.
        tasks_never_fail: Whether an exception of the work or the task is a defect; not where faults are injected.
    """
    settings = load()
    with tempfile.TemporaryDirectory(prefix="dermbatch-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before the app is imported, as in workers/__main__.py
        from workers.process import workplace  # noqa: PLC0415
        from workers.process.app import create_app, worker_arguments  # noqa: PLC0415

        if store is not None:
            workplace.ObjectStore = store  # type: ignore[assignment,attr-defined]
        die_of_defects(tasks_too=tasks_never_fail)
        app = create_app(settings, fatal(process) if tasks_never_fail else process)
        app.worker_main(worker_arguments(settings))


def die_of_defects(*, tasks_too: bool) -> None:
    """Have this worker end where a signal's receiver raises (one opens the workplace), or where a task does."""
    main = os.getpid()

    class Dying(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _die(main, self.format(record))

    signal_logger.addHandler(Dying(logging.ERROR))
    if tasks_too:

        @signals.task_failure.connect(weak=False)
        def task_failed(exception: BaseException, **_: Any) -> None:
            if not isinstance(exception, DermbatchError):
                _die(main, "".join(traceback.format_exception(exception)))


def fatal(process: Process) -> Process:
    """The same work; an exception that is no error of ours ends the worker: the task would put the image off."""
    main = os.getpid()

    def run(*arguments: Any, **named: Any) -> ResultRecord:
        try:
            return process(*arguments, **named)
        except DermbatchError:  # a lease that ran out, say: the ledger deals with it
            raise
        except Exception:
            _die(main, traceback.format_exc())
            raise

    return run


def _die(main: int, why: str) -> None:
    os.write(2, f"{why.rstrip()}\n".encode())  # sys.stderr is Celery's by now
    os.kill(main, signal.SIGKILL)  # the pool's processes end with it
