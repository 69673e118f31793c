"""A dead child ends what waits for it, and is named."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from benchmarks.children import ChildDied, Watch, of_program, spawned
from benchmarks.killloop.house import House
from dermbatch.settings import LedgerSettings

DYING = "import sys; print('some words'); sys.exit('the cause')"


def wait_for_ever():
    while True:
        time.sleep(60)


def wait_for_child(log, wait, target, argument):
    """Start a process, and wait for what it will never do."""
    with Watch() as watch:
        watch.add(spawned("loop-1", log, target, argument))
        wait()


def test_a_process_that_breaks_ends_a_wait_with_its_name_its_status_and_its_last_words(tmp_path):
    with pytest.raises(ChildDied) as died:
        wait_for_child(tmp_path / "loop.log", wait_for_ever, exec, DYING)
    assert died.value.code == "loop-1 ended early (exit status 1); its log says:\nsome words\nthe cause"


def test_a_call_that_blocks_is_ended_too(tmp_path):
    answers = multiprocessing.get_context("spawn").Queue()
    with pytest.raises(ChildDied, match=r"loop-1 ended early \(exit status 3\); its log says:\n\(nothing\)"):
        wait_for_child(tmp_path / "loop.log", answers.get, os._exit, 3)


def test_a_process_that_has_done_its_work_may_end(tmp_path):
    with Watch() as watch:
        child = spawned("loop-1", tmp_path / "loop.log", print, "done")
        watch.add(child)
        log = tmp_path / "loop.log"
        while not log.exists() or "done" not in log.read_text():
            time.sleep(0.05)
        time.sleep(0.5)
        watch.check()


def end_both(outer, inner, log):
    """End the inner one, which is released first, then the outer one."""
    with Watch(of_program("outer", outer, log)), Watch(of_program("inner", inner, log)) as watch:
        watch.release("inner")
        inner.kill()
        inner.wait()
        time.sleep(0.5)
        watch.check()
        outer.kill()
        wait_for_ever()


def test_what_is_released_may_be_killed_and_an_outer_watch_is_heard_in_an_inner_one(tmp_path):
    log = tmp_path / "log"
    log.write_text("words\n")
    both = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    try:
        with pytest.raises(ChildDied, match=r"outer ended early \(SIGKILL\); its log says:\nwords"):
            end_both(*both, log)
    finally:
        for process in both:
            process.kill()
            process.communicate()


def mend_for_ever(house):
    """As the kill-loop does."""
    while True:
        house.mend()
        time.sleep(0.05)


def test_a_program_of_the_kill_loop_that_always_ends_by_itself_is_not_started_for_ever(tmp_path):
    program = [sys.executable, "-c", "import sys; sys.exit('the cause')"]
    house = House(tmp_path / "house", {"worker-1": program}, slots=1, ledger=LedgerSettings(), clocks=False)
    house._servers.clear()
    try:
        with pytest.raises(ChildDied, match=r"worker-1 ended early \(exit status 1\)(?s:.*)the cause$"):
            mend_for_ever(house)
    finally:
        house.stop()
    assert house.own_deaths["worker-1"] == 4
