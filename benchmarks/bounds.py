"""What hostile and very large files come to in worker, de-identification and intake: outcome, memory and time.

``python -m benchmarks.bounds`` prints the table of docs/inputs.md; ``--load 20`` does so beside as many processes
that want a processor, ``--only WORDS`` for files called so. Ends with 1 where a file that is right was not read,
or another one was.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import SecretStr

from benchmarks import hostile
from dermbatch.archives.archive import members
from dermbatch.bounded.reader import Reader
from dermbatch.errors import DermbatchError, UsageError
from dermbatch.images.imagefile import MODULES, read_image
from dermbatch.settings import ArchiveSettings, PrivacySettings, Settings
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.privacy.deidentifier import Deidentifier
from orchestrator.planning.privacy.profile import Profile, load_profile
from orchestrator.watching.rules.document import read_document

SETTINGS = Settings(privacy=PrivacySettings(salt=SecretStr("no secret, but long enough")))
_LOOK = 0.01
_CLOCK = os.sysconf("SC_CLK_TCK")

ARCHIVES: dict[str, Callable[[], bytes]] = {
    "zip of 50,000 members that are the same 1 MB": lambda: hostile.overlapping_zip(50_000, 1 << 20),
}
DOCUMENTS: dict[str, Callable[[], bytes]] = {
    "YAML, merge keys that come to 10^8 keys": lambda: hostile.merge_bomb(8),
    "YAML, aliases that come to 10^9 values": lambda: hostile.alias_bomb(9),
    "YAML, 500,000 brackets deep": lambda: b"[" * 500_000,
}


def worker(path: Path) -> str:
    """As a worker decodes it."""
    reader = Reader(SETTINGS.reading.limits, MODULES)
    reader.run(read_image, path.read_bytes(), max_pixels=SETTINGS.worker.max_pixels)
    return "right"


def privacy(path: Path) -> str:
    """As a command de-identifies it."""
    Deidentifier(Profile(name="bounds"), SETTINGS).copy(path.read_bytes())
    return "right"


def intake(path: Path) -> str:
    """As a command takes its folder in."""
    found = Counter[str]()
    for item in Intake(SETTINGS, None, in_place=False).walk([str(path.parent)]):
        if isinstance(item, Candidate):
            found[item.refusal.reason if item.refusal else "taken"] += 1
    return ", ".join(f"{count:,} x {what}" if count > 1 else what for what, count in found.items())


def archive(path: Path) -> str:
    """As all of an archive is unpacked."""
    found = Counter[str]()
    for member in members(path, ArchiveSettings()):
        try:
            member.read()
            found["taken"] += 1
        except DermbatchError as error:
            found[error.reason] += 1
    return ", ".join(f"{count:,} x {what}" for what, count in found.items())


def rules(path: Path) -> str:
    """As a file of rules is read."""
    read_document(path)
    return "right"


def profile(path: Path) -> str:
    """As a profile is read."""
    try:
        load_profile(path)
    except UsageError as error:
        if "no YAML" not in str(error):
            raise AssertionError(str(error)) from error
        raise
    return "right"


WAYS = {way.__name__: way for way in (worker, privacy, intake, archive, rules, profile)}


def peak(pid: int | str) -> int:
    """Most bytes in memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1]) << 10


class ProcessWatch(threading.Thread):
    """Looks at the processes below this one: their peak memory, and the time of a processor that they have had."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._spent = 0, dict[int, float]()

    @property
    def seconds(self) -> float:
        return sum(self._spent.values())

    def run(self) -> None:
        me = psutil.Process()
        while True:
            for child in me.children(recursive=True):
                with suppress(OSError, psutil.Error, StopIteration, IndexError, ValueError):
                    self._look(child.pid)
            time.sleep(_LOOK)

    def _look(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        self.peak = max(
            self.peak, int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1]) << 10
        )
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self._spent[pid] = (int(fields[11]) + int(fields[12])) / _CLOCK


def one(way: str, path: Path) -> None:
    """Measure one file on one way, and print what came of it."""
    watch = ProcessWatch()
    watch.start()
    began = time.monotonic()
    try:
        outcome, message = WAYS[way](path), ""
    except DermbatchError as error:
        outcome, message = error.reason, str(error)
    wall = time.monotonic() - began
    own = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "outcome": outcome,
                "message": message,
                "seconds": round(wall, 1),
                "processor": round(watch.seconds + own.ru_utime + own.ru_stime, 1),
                "peak": max(watch.peak, peak("self")) >> 20,
            }
        )
    )


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that want a processor."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def measured(way: str, path: Path) -> dict[str, str]:
    """One file on one way, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bounds", "--one", way, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def cells(found: dict[str, str]) -> str:
    """An outcome as the table has it."""
    code = found["outcome"] if " " in found["outcome"] or found["outcome"] == "right" else f"`{found['outcome']}`"
    return f"{code}, {found['processor']} / {found['seconds']} s, {found['peak']:,} MiB"


def main() -> int:
    """Print the table; 0 where each file came to what it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    if asked.one:
        one(asked.one[0], Path(asked.one[1]))
        return 0
    wrong = 0
    kinds = {("worker", "privacy", "intake"): hostile.IMAGES, ("archive", "intake"): ARCHIVES}
    kinds[("rules", "profile")] = DOCUMENTS
    for ways, files in kinds.items():
        print(f"\n| File | Bytes | {' | '.join(ways)} |\n|---|---|{'---|' * len(ways)}", flush=True)
        for name, make in files.items():
            if asked.only not in name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = (
                    Path(folder)
                    / f"file{'.zip' if files is ARCHIVES else '.jpg' if files is hostile.IMAGES else ''}"
                )
                path.write_bytes(make())
                with busy(asked.load):
                    found = {way: measured(way, path) for way in ways}
                print(
                    f"| {name} | {path.stat().st_size:,} | {' | '.join(map(cells, found.values()))} |", flush=True
                )
            read = [one["outcome"] == "right" for way, one in found.items() if way != "intake"]
            wrong += any(read) if "right" not in name and "JPEG, 200" not in name else not all(read)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
