"""A client that waits is told how the batch ended, also while the ledger still has it as open."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

from dermbatch import client as module
from dermbatch.client import Client
from dermbatch.settings import Settings
from orchestrator.reporting.overview import of_summary


def test_the_summary_says_how_a_batch_ended(monkeypatch):
    now = datetime(2026, 3, 2, tzinfo=UTC)
    counts = {"images": 3, "done": 2, "failed": 1, "reasons": {"corrupt": 1}}
    times = {"created": now, "closed": now, "first_started": None, "last_finished": None}
    summary = SimpleNamespace(name="b", state="finished", **counts, **times)

    def open_still(*_):
        raise AssertionError("the ledger is not asked once more")

    monkeypatch.setattr(module.entries, "named", lambda *_: None)
    monkeypatch.setattr(module.progress, "wait", lambda *_: summary)
    monkeypatch.setattr(module, "standing", open_still)
    assert Client(Settings()).wait("b") == of_summary(summary)
