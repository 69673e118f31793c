"""A real worker process that only notes which messages it is given."""

import os
import subprocess
import sys
from pathlib import Path

from dermbatch.settings import Settings, WorkerSettings
from orchestrator.stack.environment import settings_environment
from tests.waiting import wait_for


def noted(redis, log, enough):
    """Run one until ``enough()`` says so, then end it; what it logged.

    Args:
        redis: Settings of its queue.
        log: The file that it logs to.
        enough: Asked again and again; the worker may not end before, and there is a limit.
    """
    env = settings_environment(Settings(redis=redis, worker=WorkerSettings(metrics_port=0)))
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("noting_worker.py"))],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **env},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: worker.poll() is not None or enough(), 60, log.read_text)
        assert worker.poll() is None, log.read_text()
    finally:
        worker.terminate()
        worker.wait(30)
    return log.read_text()
