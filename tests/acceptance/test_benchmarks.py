"""Every benchmark as a command, with its smallest sizes; and what it does if one of its processes dies.

Figures are not judged, and no time is: that is for quiet machines. The kill-loop, the scaling simulator and the
notifications have tests of their own.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from commands import alive, command_line

from benchmarks.drains import haproxy
from tests.waiting import patience, wait_for

ROOT = Path(__file__).resolve().parents[2]
LIVE = ("--bulk", 60, "--live", 2, "--every", 0.05, "--rounds", 1, "--slots", 1, "--live-slots", 1)


def command(name, *options):
    return [sys.executable, "-m", f"benchmarks.{name}", *map(str, options)]


def run(name, *options):
    """Run it; what it prints. An exit status of 1 may say that a figure is beyond its limit."""
    ended = subprocess.run(
        command(name, *options),
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=patience(200),
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    assert ended.stdout, ended.stderr
    return ended.stdout


def figures(printed):
    """The last line, which is JSON."""
    found = json.loads(printed.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_overhead():
    found = figures(run("overhead", "--jobs", 40, "--rounds", 1, "--slots", 1, "--warm-up", 5))
    assert found["jobs"] == 40
    assert found["dermbatch"] > 0
    assert found["celery"] > 0


def test_ledger_memory():
    found = figures(run("ledger_memory", "--small", 5000, "--large", 10_000, "--run", 10))
    assert found["more"] == found["large"] - found["small"]
    assert found["small"] > 0


def test_live_latency():
    found = figures(run("live_latency", *LIVE, "--pause", 0.2))
    assert found["bulk_images_per_second"] >= 0
    assert found["idle_p50_ms"] > 0
    assert found["loaded_p50_ms"] > 0


def test_takeover():
    sizes = ("--rounds", 1, "--images", 30000, "--slots", 1, "--lease", 3, "--settle", 0)
    found = figures(run("takeover", *sizes))
    assert found["images"] >= 1
    assert 0 < found["median"] <= found["most"]


def test_watch_latency():
    found = figures(run("watch_latency", "--objects", 3, "--every", 0.4, "--there", 3))
    assert found["there"] == 3
    for way in ("notification", "listing"):
        assert 0 < found[way]["p50"] <= found[way]["most"]


def test_closing():
    printed = run("closing", "--images", 10, "--times", 2)
    assert re.search(r"│ 10 +│", printed)
    assert re.search(r"│ 20 +│ .*report\.html [\d.]+, results\.parquet [\d.]+ │", printed)


def test_planning():
    assert "500 images planned" in run("planning", "--images", 500)


def test_scale():
    found = figures(run("scale", "--images", 600, "--workers", 1, "--shards", 2, "--embedding", 8))
    assert found["images"] == 600
    assert found["memory"].keys() == {"redis", "orchestrator", "worker"}
    assert found["closing"] >= 0


def test_rerun():
    found = figures(run("rerun", "--images", 1, "--workers", 1))
    assert found["images"] == 1
    assert all(seconds > 0 for seconds in found["seconds"])


def test_comparison():
    last = run("comparison", "--counts", 1, 1, 1, "--rounds", 1, "--workers", 1).splitlines()[-1]
    assert re.fullmatch(r"phantoms chain=[\d.]+ ray=- limit=[\d.]+ busy=[\d.]+", last)


@pytest.mark.skipif(haproxy() is None, reason="needs HAProxy (make system-packages)")
def test_drains():
    last = run("drains", "--drains", 1, "--images", 12, "--ways", "tcp-2", "--small").splitlines()[-1]
    assert last == "drains=1 images=12 permanent=0"


def test_house():
    *text, last = run("house").splitlines()
    names = ("on_the_way", "returns", "modules", "top_level_over_12", "code_lines")
    found = re.fullmatch(" ".join(rf"{name}=(\d+)" for name in names), last)
    assert found, last
    counted = dict(zip(names, map(int, found.groups()), strict=True))
    arrows = [line for line in text if re.fullmatch(r"  [\w/]+\.py:[\w.<>]+ -> [\w/]+\.py:[\w.<>]+", line)]
    assert counted["returns"] == len(arrows)
    assert counted["modules"] > counted["on_the_way"] > 1
    assert counted["on_the_way"] <= 12  # the house's walls, as docs/architecture.md has them
    assert counted["returns"] <= 12
    assert counted["top_level_over_12"] == 0
    assert counted["code_lines"] > 10_000


NAMELESS = """
import socket, sys

named = socket.gethostname


def gethostname():
    if sys._getframe(1).f_code.co_filename.endswith("workplace.py"):
        raise OSError("this machine has no name")
    return named()


socket.gethostname = gethostname
"""
"""Breaks what a workplace is opened with, and nothing before."""


def test_a_worker_that_cannot_open_its_workplace_ends_the_benchmark_with_its_cause(tmp_path):
    """Celery only logs what happens there, and goes on."""
    (tmp_path / "sitecustomize.py").write_text(NAMELESS)
    ended = subprocess.run(
        command("overhead", "--jobs", 10, "--slots", 1),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=patience(200),
        check=False,
    )
    assert ended.returncode == 1
    assert "ours-0 ended early (by SIGKILL); its log is" in ended.stderr
    assert "OSError: this machine has no name" in ended.stderr.splitlines()[-1]


def test_a_killed_child_ends_the_benchmark_whatever_it_is_doing():
    process = subprocess.Popen(
        command("live_latency", "--bulk", 100_000, "--live", 100_000, "--slots", 1, "--live-slots", 1),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        family = []

        def server():
            family[:] = psutil.Process(process.pid).children(recursive=True)
            working = any("--worker" in command_line(one) for one in family)
            found = [one for one in family if "valkey" in command_line(one) and "guard" not in command_line(one)]
            return found if working else []

        wait_for(server, 120, "Redis beside a worker")[0].send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=patience(120))
    finally:
        process.kill()
    assert process.returncode == 1
    assert "redis ended early (by SIGKILL); its log is" in stderr
    psutil.wait_procs(family, 30)
    assert [command_line(one) for one in family if alive(one)] == []
