"""What a command says while a batch runs."""

import io
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from rich.console import Console

from dermbatch.ledger import BatchState
from orchestrator.cli.tables import progress
from orchestrator.cli.tables.progress import Pace, follow, line, named

SUMMARY = SimpleNamespace(images=1_250_000, done=1_250_000, failed=0)


def state(done=0, **changed):
    fields = {
        "name": "archive-2026-11-27-150301",
        "lane": "bulk",
        "weight": 1,
        "state": "open",
        "why": "",
        "failed": 0,
    }
    fields |= {"images": 1_250_000, "next_index": 0, "in_flight": 3, "waiting": 0, "opened": datetime.now(UTC)}
    return BatchState(**fields | {"done": done} | changed)


def paced(*seen):
    pace = Pace()
    for finished, now in seen:
        pace.note(finished, now)
    return pace


def test_the_time_left_is_what_the_leader_tells_and_not_what_images_took():
    pace = paced((0, 0), (6000, 60), (6001, 100), (6031, 120))  # what was known went fast
    assert pace.rate == pytest.approx(31 / 60)
    shown = line(state(6031, images=6093, seconds_left=500.0), pace)
    assert shown == "6,031/6,093 images, 0.5 images/s, 8 min left"


def test_a_time_that_nobody_knows_is_said_to_be_unknown():
    assert "time left unknown" in line(state(30), paced((0, 0), (30, 30)))


def test_what_holds_a_batch_up_comes_before_what_failed():
    why = "321 of 1000 images failed, more than 20%"
    shown = line(state(679, failed=321, state="paused", why=why), paced((1000, 0)))
    assert shown == f"1,000/1,250,000 images, paused: {why}, 321 failed"
    assert line(state(0, images=0), paced((0, 0))) == "0/0 images, writing the report"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_shows_one_line_whatever_its_width(monkeypatch, columns):
    states = [state(), state(679, failed=321, state="paused", why="too [bold]many[/] failed " * 5), None]

    def wait(ledger, store, batch, told):
        for one in states:
            told(one)
        return SUMMARY

    monkeypatch.setattr(progress, "wait", wait)
    console = Console(file=io.StringIO(), force_terminal=True, width=columns, color_system=None)
    follow(None, None, SimpleNamespace(name=state().name, images=1_250_000), console)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    lines = [one for one in re.split(r"[\r\n]+", shown) if one]
    assert lines
    assert all(len(one) <= columns for one in lines)
    assert "\n" not in shown.rstrip("\n")
    assert state().name[:20] in lines[-1]


def test_a_line_of_80_columns_says_all_and_shortens_the_name():
    running = state(12_345, images=30_000, failed=350, seconds_left=44_400.0)
    text = line(running, paced((0, 0), (123, 10)))
    assert text == "12,695/30,000 images, 12.3 images/s, 12 h 20 min left, 350 failed"
    assert named(running.name, text, 80) == f"archive-2026…: {text}"
    assert named(running.name, text, 120) == f"{running.name}: {text}"
    assert named(running.name, text, 70) == text
