"""A real worker process that only notes which messages it is given."""

import os
import subprocess
import sys
import time
from pathlib import Path

from dermbatch.settings import Settings, WorkerSettings
from orchestrator.stack.environment import settings_environment
from tests.waiting import patience


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
        deadline = time.monotonic() + patience(60)
        while not enough():
            assert worker.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
    finally:
        worker.terminate()
        worker.wait(30)
    return log.read_text()
