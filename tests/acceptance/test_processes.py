"""Whatever ends a command, no process is left behind, and what was begun is not lost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import Command, alive, command_line, dermbatch, failures, results

from tests.waiting import patience, wait_for


def running_under(folder):
    """Processes that carry the folder in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join(process.cmdline()) or str(folder) in " ".join(process.environ().values()):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


def started(command, folder):
    """Wait until workers run; the whole family then."""
    log = folder / ".dermbatch" / "logs" / "worker.log"
    wait_for(lambda: log.exists() and "ready" in log.read_text(), 90, "the worker")
    return command.family()


def gone(family, timeout=20):
    psutil.wait_procs(family, patience(timeout))
    return [process for process in family if alive(process)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_outlives_a_command(number, code, samples, small_models, tmp_path):
    command = Command(
        "run", samples, "--out", tmp_path / "out", "--workers", "1", "--model-repository", small_models
    )
    family = started(command, tmp_path / "out")
    assert len(family) > 8
    command.process.send_signal(number)
    ended = command.end(60)
    assert ended.code == code
    assert gone(family) == []
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stack_whose_start_is_interrupted_is_gone(number, code, small_models, tmp_path):
    command = Command("up", "--home", tmp_path, "--model-repository", small_models)
    wait_for((tmp_path / "stack.json").exists, 90, "the first parts")
    family = running_under(tmp_path)
    assert len(family) > 2
    command.process.send_signal(number)
    ended = command.end(60)
    assert ended.code == code
    assert gone(running_under(tmp_path)) == []
    assert gone(family) == []


def test_after_an_interruption_the_same_folder_can_be_used_again(samples, small_models, tmp_path):
    command = Command(
        "run", samples, "--out", tmp_path / "out", "--batch", "one", "--model-repository", small_models
    )
    started(command, tmp_path / "out")
    command.process.kill()
    command.end()
    ended = dermbatch(
        "run", samples, "--out", tmp_path / "out", "--batch", "two", "--model-repository", small_models
    )
    assert ended.code == 0, ended.err
    assert len([record for record in results(tmp_path / "out").values() if record.batch == "two"]) == 8


@pytest.mark.parametrize("engine", ["triton", "onnxruntime"])
def test_killed_workers_and_a_killed_triton_cost_no_image(samples, tmp_path, engine):
    env = {"DERMBATCH_LEDGER__LEASE": "3", "DERMBATCH_LEDGER__HEARTBEAT": "1"}
    command = Command("run", samples, "--out", tmp_path / "out", "--engine", engine, env=env)
    family = started(command, tmp_path / "out")
    time.sleep(1)

    def named(text):
        return [p for p in family if text in command_line(p)]

    pool = [p for p in named("workers") if alive(p) and "workers" in command_line(p.parent())]
    for process in pool[-2:]:
        process.kill()
    servers = named("bin/tritonserver")
    assert bool(servers) == (engine == "triton")
    for process in servers:
        if "guard.py" not in command_line(process):
            process.kill()
    ended = command.end()
    assert ended.code == 0, ended.err
    assert len(results(tmp_path / "out")) == 8
    assert failures(tmp_path / "out") == {}


def test_a_full_disk_ends_the_command_with_one_clear_sentence(samples, small_models, tmp_path):
    env = {"DERMBATCH_STACK__LEAST_FREE": str(2**62)}
    ended = dermbatch("run", samples, "--out", tmp_path / "out", "--model-repository", small_models, env=env)
    assert ended.code == 1
    assert "the disk of" in ended.err
    assert "is full" in ended.err
    assert "Traceback" not in ended.err
    assert running_under(tmp_path) == []


def test_a_part_that_cannot_start_is_named_with_its_log(samples, tmp_path):
    broken = tmp_path / "models"
    model = broken / "segment_lite"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.onnx").write_bytes(b"no model")
    (model / "config.pbtxt").write_text('name: "segment_lite"\nbackend: "onnxruntime"\n')
    ended = dermbatch(
        "run", samples, "--out", tmp_path / "out", "--stages", "segment", "--model-repository", broken,
        "--engine", "triton",
    )  # fmt: skip
    assert ended.code == 1
    assert "triton.log" in ended.err
    assert "Traceback" not in ended.err.split("says:")[0]
    assert running_under(tmp_path) == []


@pytest.mark.parametrize("later", [0, 0.2, 0.6, 1.2])
def test_an_interruption_in_the_first_seconds_is_one_sentence(later, samples, tmp_path):
    """While libraries are imported, too: from the moment on that the program hears signals."""
    command = Command("run", samples, "--out", tmp_path / "out")
    status = Path(f"/proc/{command.process.pid}/status")
    wait_for(lambda: _catches(status, signal.SIGTERM), 30, "the program")
    time.sleep(later)
    command.process.send_signal(signal.SIGINT)
    ended = command.end(60)
    assert ended.code == 130
    assert re.fullmatch(r"dermbatch: ended by SIGINT(; stopping what was started)?\n", ended.err)
    assert running_under(tmp_path / "out") == []


_SWALLOWED = """
import signal, time, weakref
from orchestrator.cli import hear
class Held: pass
def callback(_): signal.raise_signal(signal.SIGINT)
hear()
held = Held()
watching = weakref.ref(held, callback)
del held
time.sleep(60)
"""


def test_an_interruption_that_a_callback_swallowed_ends_the_program_all_the_same():
    """As one that comes while importing drops the lock of a module: nothing raised there gets out."""
    ended = subprocess.run(
        [sys.executable, "-c", _SWALLOWED], capture_output=True, text=True, timeout=patience(50), check=False
    )
    assert ended.returncode == 130
    assert ended.stderr == "dermbatch: ended by SIGINT\n"


def _catches(status, number):
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) >> (number - 1) & 1
