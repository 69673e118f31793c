"""What is billed in tests: results with their usage, a batch of them closed, a file of price lists."""

from contextlib import contextmanager
from textwrap import dedent

from dermbatch import layout
from dermbatch.records.asked import event_id
from dermbatch.records.outcome import Usage
from dermbatch.records.row import row_of, sent
from orchestrator.cli import options
from orchestrator.metering.accounts import Accounts
from orchestrator.metering.events import Events
from orchestrator.reporting.closing import close
from orchestrator.reporting.table.columns import rows_of
from tests import outcome_samples

LISTS = """
    currency: EUR
    lists:
      - name: early
        from: 2026-01-01
        until: 2026-03-02
        prices: {images: 0.02}
      - name: late
        from: 2026-03-02
        prices: {images: 0.03, gpu_seconds: 0.0007, gigabytes_read: "0.1"}
      - name: clinic
        tenant: clinic-a
        from: 2026-03-01
        until: 2026-04-01
        prices: {images: 0.01}
"""


def price_file(folder, text=LISTS):
    path = folder / "prices.yaml"
    path.write_text(dedent(text))
    return path


def metered(batch, index, **changes):
    """A result as a worker of today records it."""
    record = outcome_samples.result_of(batch, index, **changes)
    event = event_id(batch, outcome_samples.CREATED, index)
    stages = {
        stage: done.model_copy(update={"model_seconds": 0.125, "device": "gpu", "billed_by": event})
        for stage, done in record.stages.items()
    }
    return record.model_copy(update={"stages": stages, "usage": Usage(event=event, bytes_read=1000 + index)})


def written(tmp_path, store, batch, *tables):
    events = Events(batch, tmp_path)
    for records in tables:
        events.add(rows_of([sent(row_of(record)) for record in records]))
    return events.write(store)


NO_ACCOUNTS = Accounts()


def closed(store, batch, accounts=NO_ACCOUNTS):
    """Close a batch of eight results."""
    outcome_samples.write_manifest(store, batch, map(outcome_samples.entry_of, range(8)))
    for index in range(8):
        outcome_samples.write_record(store, metered("b", index))
    assert close(store, batch, "finished", 1, 1, accounts=accounts).summary.done == 8
    return store.objects["results", layout.report("b")].decode()


def as_home(store, monkeypatch):
    """Have commands find this store in whatever home they are told."""

    @contextmanager
    def results(home):
        yield store

    monkeypatch.setattr(options, "results", results)
