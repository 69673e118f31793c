"""Parts: ready or a clear complaint, and nothing left behind, whatever dies."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from dermbatch.errors import StackError
from orchestrator.stack import ports, process
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import GUARD, Part, http_ok, python_module, stop_all, wait_all
from orchestrator.stack.supervision import MOST_RESTARTS, WITHIN, Supervised
from tests.waiting import allowed, wait_for

ENVIRONMENT = base_environment(os.environ)

FAMILY = """
    import os, subprocess, sys, time
    # A grandchild that leaves the session and takes no notice of SIGTERM, and whose parent is gone at once.
    grandchild = "import os, signal, sys, time; signal.signal(15, signal.SIG_IGN); os.setsid()\\n" \\
        "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
    subprocess.run([sys.executable, "-c", child, grandchild, sys.argv[1]], check=True)
    print("parent is up", flush=True)
    time.sleep(600)
"""


def part(tmp_path, script, *arguments, name="thing", probe=lambda: True, **options):
    argv = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return Part(name, argv, ENVIRONMENT, tmp_path / f"{name}.log", probe, **options)


def pid_in(path):
    wait_for(lambda: path.exists() and path.read_text())
    return int(path.read_text())


@pytest.fixture
def family(tmp_path):
    """A part whose grandchild is an orphan in a session of its own; its pid."""
    thing = part(tmp_path, FAMILY, tmp_path / "pid", grace=2)
    thing.start()
    yield thing, pid_in(tmp_path / "pid")
    thing.stop()


def test_stop_ends_grandchildren_that_left_the_session(family):
    thing, grandchild = family
    assert psutil.pid_exists(grandchild)
    thing.stop()
    assert not psutil.pid_exists(grandchild)
    assert not thing.running
    assert thing.program_pid is None


def test_the_end_of_the_program_ends_its_grandchildren(family):
    thing, grandchild = family
    psutil.Process(thing.program_pid).kill()
    wait_for(lambda: not thing.running)
    assert not psutil.pid_exists(grandchild)
    with pytest.raises(StackError, match="SIGKILL"):
        thing.look()


def test_a_killed_guard_takes_the_program_with_it(tmp_path):
    thing = part(tmp_path, "import time; time.sleep(600)")
    thing.start()
    wait_for(lambda: thing.program_pid)
    program = psutil.Process(thing.program_pid)
    os.kill(thing.pid, signal.SIGKILL)
    wait_for(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(StackError, match="SIGKILL"):
        thing.look()


def test_a_program_that_ignores_sigterm_is_killed_after_its_grace(tmp_path):
    thing = part(
        tmp_path,
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
        grace=0.5,
    )
    thing.start()
    wait_for(lambda: "deaf" in thing.last_lines())
    begin = time.monotonic()
    thing.stop()
    assert 0.4 < time.monotonic() - begin < allowed(4)


def test_a_part_whose_guard_does_not_answer_is_ended_all_the_same(family, monkeypatch):
    thing, grandchild = family
    monkeypatch.setattr(process, "_GUARD_EXTRA", 0.2)
    thing.grace = 0.2
    os.kill(thing.pid, signal.SIGSTOP)
    thing.stop()
    assert not thing.running
    wait_for(lambda: not psutil.pid_exists(grandchild))


def test_an_orderly_end_is_allowed_to_finish(tmp_path):
    done = tmp_path / "done"
    thing = part(
        tmp_path,
        """
        import pathlib, signal, sys, time
        def end(number, frame):
            time.sleep(0.5)
            pathlib.Path(sys.argv[1]).touch()
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("up", flush=True)
        while True:
            time.sleep(1)
        """,
        done,
    )
    thing.start()
    wait_for(lambda: "up" in thing.last_lines())
    thing.stop()
    assert done.exists()


def test_early_death_is_reported_at_once_with_the_logs_last_lines(tmp_path):
    thing = part(
        tmp_path,
        "import sys; print('line one'); sys.exit('no port for me')",
        probe=lambda: False,
        ready_timeout=250,
    )
    begin = time.monotonic()
    thing.start()
    with pytest.raises(StackError) as caught:
        thing.wait()
    assert time.monotonic() - begin < 100  # and not only when its time to get ready is over
    for words in ("thing ended early", "exit status 1", "no port for me", str(thing.log)):
        assert words in str(caught.value)


def test_the_complaint_shows_this_start_and_what_tells_most(tmp_path):
    script = "print('E12 bad model'); print('chatter'); raise SystemExit(3)"
    thing = part(tmp_path, script, probe=lambda: False, telling=re.compile("^E"))
    thing.log.write_text("E11 of an earlier start\n")
    thing.start()
    with pytest.raises(StackError, match=r"E12 bad model$") as caught:
        thing.wait()
    assert "E11" not in str(caught.value)


def test_a_part_that_is_never_ready_is_stopped_and_reported(tmp_path):
    thing = part(tmp_path, "import time; time.sleep(600)", probe=lambda: False, ready_timeout=0.5)
    thing.start()
    with pytest.raises(StackError, match=r"not ready within 0\.5 s"):
        thing.wait()
    assert not thing.running


def test_a_program_that_does_not_exist_is_reported(tmp_path):
    thing = Part("ghost", ["/nonexistent/program"], ENVIRONMENT, tmp_path / "ghost.log", lambda: False)
    thing.start()
    with pytest.raises(StackError, match=r"(?s)exit status 127.*cannot start /nonexistent/program"):
        thing.wait()


def test_a_part_is_not_started_twice(tmp_path):
    thing = part(tmp_path, "import time; time.sleep(600)")
    thing.start()
    try:
        with pytest.raises(StackError, match="already runs"):
            thing.start()
    finally:
        thing.stop()


def test_several_parts_start_and_stop_together(tmp_path):
    ready = []
    script = "import time; time.sleep(600)"
    parts = [part(tmp_path, script, name=f"p{n}", on_ready=lambda n=n: ready.append(n), grace=5) for n in range(3)]
    for each in parts:
        each.start()
    wait_all(parts)
    assert sorted(ready) == [0, 1, 2]
    assert all(each.ready for each in parts)
    stop_all(parts)
    assert not any(each.running for each in parts)


HOST = """
    import os, sys, threading, time
    from pathlib import Path
    from orchestrator.stack.process import Part
    folder = Path(sys.argv[1])
    family = Part("family", [sys.executable, "-c", sys.argv[2], str(folder / "grandchild")], dict(os.environ),
                  folder / "family.log", lambda: True, grace=30)
    # From a thread that ends at once: what it started must live on.
    starter = threading.Thread(target=family.start)
    starter.start()
    starter.join()
    while family.program_pid is None:
        time.sleep(0.01)
    (folder / "guard").write_text(str(family.pid))
    (folder / "program").write_text(str(family.program_pid))
    time.sleep(600)
"""


def test_a_killed_host_leaves_nothing_and_a_finished_thread_harms_nothing(tmp_path):
    host = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOST), str(tmp_path), textwrap.dedent(FAMILY)], env=ENVIRONMENT
    )
    try:
        pids = [pid_in(tmp_path / name) for name in ("guard", "program", "grandchild")]
        time.sleep(1.2)  # two looks of the guard
        assert all(psutil.pid_exists(pid) for pid in pids)
    finally:
        host.kill()
        host.wait()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), 10)


def test_the_guard_passes_on_how_the_program_ended_and_removes_leftovers(tmp_path):
    leftover = tmp_path / "left-1"
    leftover.touch()

    def status(script):
        guard = python_module(GUARD, str(os.getpid()), "1", str(tmp_path / "left-*"))
        return subprocess.run([*guard, sys.executable, "-c", script], env=ENVIRONMENT, check=False).returncode

    assert status("raise SystemExit(7)") == 7
    assert not leftover.exists()
    assert status("import os; os.kill(os.getpid(), 11)") == 128 + 11


def test_a_dead_part_is_started_again_with_growing_pauses_and_not_for_ever(tmp_path):
    now = [1000.0]
    thing = part(tmp_path, "import sys; sys.exit('cannot go on')")
    supervised = Supervised(thing, clock=lambda: now[0])
    thing.start()

    def dies():
        wait_for(lambda: not thing.running)
        return supervised.look()

    for restart in range(MOST_RESTARTS):
        assert f"again in {0.5 * 2**restart:g} s" in dies()[0]
        assert supervised.look() == []
        now[0] += 0.5 * 2**restart + 0.01
        assert supervised.look() == [f"thing is started again ({restart + 1} of {MOST_RESTARTS})"]
    with pytest.raises(StackError) as caught:
        dies()
    assert "died 6 times" in str(caught.value)
    assert "cannot go on" in str(caught.value)
    assert str(thing.log) in str(caught.value)


def test_deaths_of_long_ago_do_not_count(tmp_path):
    now = [1000.0]
    thing = part(tmp_path, "")
    supervised = Supervised(thing, clock=lambda: now[0])
    thing.start()
    for _ in range(MOST_RESTARTS + 3):
        wait_for(lambda: not thing.running)
        assert "again in 0.5 s" in supervised.look()[0]
        now[0] += WITHIN
        supervised.look()
    thing.stop()


def test_a_part_that_came_back_is_said_to_be_ready(tmp_path):
    now = [0.0]
    thing = part(tmp_path, "import time; time.sleep(600)")
    thing.start()
    thing.wait()
    supervised = Supervised(thing, clock=lambda: now[0])
    assert supervised.look() == []
    psutil.Process(thing.pid).kill()
    wait_for(lambda: not thing.running)
    supervised.look()
    now[0] += 1
    assert supervised.look() == ["thing is started again (1 of 5)"]
    assert supervised.look() == ["thing is ready again"]
    thing.stop()


def test_free_ports_are_different_and_can_be_listened_on():
    found = free_ports(50)
    assert len(set(found)) == 50
    for port in found:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_where_all_ports_are_taken_it_is_said(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        taken = listener.getsockname()[1]
        monkeypatch.setattr(ports, "_LOWEST", taken)
        monkeypatch.setattr(ports, "_HIGHEST", taken)
        with pytest.raises(StackError, match="no 1 free ports"):
            free_ports(1)


def test_an_http_probe_says_no_where_nobody_answers():
    assert not http_ok(free_ports(1)[0], "/metrics")


def test_a_module_is_run_without_the_working_directory_on_its_path(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')")
    ran = subprocess.run(python_module("json.tool", "--help"), cwd=tmp_path, check=False, capture_output=True)
    assert ran.returncode == 0
