"""The kill-loop of `make kill-loop`, but smaller: whatever is killed, nothing is lost, duplicated or torn."""

import json
import re
import subprocess
import sys
from pathlib import Path

import psutil

from tests.waiting import patience

ROOT = Path(__file__).resolve().parents[2]
LAST = re.compile(r"lost=0 duplicated=0 torn=0 billed_twice=0 unbilled=0 kills=(\d+) images=(\d+)")


def kill_loop(folder, *options):
    """Run it; the loop's figures and its last line's."""
    command = [sys.executable, "-m", "benchmarks.killloop", "--no-stock", "--keep", folder, *map(str, options)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(280), check=False)
    *_, figures, last = ended.stdout.splitlines() or [""] * 2
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert LAST.fullmatch(last), ended.stdout
    return json.loads(figures)["dermbatch"], LAST.fullmatch(last).groups()


def running_under(folder):
    """Processes that have the folder in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_nothing_is_lost_doubled_or_torn_under_every_kind_of_fault(tmp_path):
    shards = ("--shards", 2, "--workers", 1)  # one shard is tried below
    figures, last = kill_loop(tmp_path / "loop", "--kills", 25, "--images", 600, "--lease", 4, *shards)
    assert last == ("25", "600")
    assert set(figures["faults"]) == {
        "pool process",
        "reading process",
        "nursery",
        "worker",
        "orchestrator",
        "Redis",
        "Redis, data deleted",
        "Redis full",
        "S3 errors",
        "S3 slow",
        "S3 cuts",
        "clock forward",
        "clock back",
    }
    assert running_under(tmp_path) == []


def test_real_stages_survive_kills_of_triton_workers_and_orchestrators(tmp_path):
    figures, last = kill_loop(
        tmp_path / "loop", "--real", "--kills", 7, "--images", 16, "--lease", 4, "--slots", 2
    )
    assert last == ("7", "16")
    assert {"pool process", "worker", "orchestrator", "triton"} <= set(figures["faults"])
    assert running_under(tmp_path) == []
