"""The commands as users type them, in processes of their own, with the models that ship."""

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

import psutil

from dermbatch.records.outcome import FailureRecord, ResultRecord
from tests.waiting import patience, wait_for

PRELOADED = Path(__file__).with_name("preloaded.py")
DERMBATCH = [sys.executable, "-m", "orchestrator.cli"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Command:
    """A running command whose whole family of processes can be looked at."""

    def __init__(self, *args, env=None):
        self.process = subprocess.Popen(
            [*DERMBATCH, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "160", **(env or {})},
            start_new_session=True,
        )

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, timeout=240):
        out, err = self.process.communicate(timeout=patience(timeout))
        return Ended(self.process.returncode, out, err)


@cache
def _preloaded() -> tuple[subprocess.Popen, Path, socket.socket]:
    """The process that forks commands; it ends with this one."""
    path = Path(tempfile.mkdtemp(prefix="commands-")) / "socket"
    process = subprocess.Popen(
        [sys.executable, "-P", PRELOADED, path],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "160"},
        start_new_session=True,
    )
    held = socket.socket(socket.AF_UNIX)
    wait_for(lambda: process.poll() is not None or held.connect_ex(str(path)) == 0, what="the preloaded program")
    atexit.register(lambda: (held.close(), process.wait(10), shutil.rmtree(path.parent)))
    return process, path, held


def dermbatch(*args, timeout=240, env=None):
    """Run a command to its end, forked from a process that has imported the program already."""
    _, path, _ = _preloaded()
    asked = {
        "args": [*map(str, args)],
        "env": {**os.environ, "COLUMNS": "160", **(env or {})},
        "cwd": str(Path.cwd()),
    }
    with socket.socket(socket.AF_UNIX) as connection, TemporaryFile() as out, TemporaryFile() as err:
        connection.settimeout(patience(timeout))
        connection.connect(str(path))
        socket.send_fds(connection, [json.dumps(asked).encode()], [out.fileno(), err.fileno()])
        code = int(connection.recv(16))
        for file in (out, err):
            file.seek(0)
        return Ended(code, out.read().decode(), err.read().decode())


def results(folder: Path) -> dict[str, ResultRecord]:
    """Result records of all batches in a folder, by the name of the image."""
    found = map(ResultRecord.model_validate_json, map(Path.read_bytes, folder.glob("batches/*/results/*/*.json")))
    return {record.name: record for record in found}


def failures(folder: Path) -> dict[str, FailureRecord]:
    """Failure records likewise."""
    found = map(FailureRecord.model_validate_json, map(Path.read_bytes, folder.glob("batches/*/failed/*/*.json")))
    return {record.name: record for record in found}


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and that nobody asked about (a zombie) does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> str:
    """The command line of a process; empty where it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
