"""The kill-loop's own look at bills finds what is billed twice, too high, too low and not at all."""

import json

import pytest
from standins import Store
from test_usage import metered, written

from benchmarks.killloop.verdict import bills
from tests import outcome_samples


@pytest.fixture
def store(tmp_path):
    store = Store()
    written(tmp_path, store, BATCH, [metered("b", index) for index in range(4)])
    for index in range(4):
        outcome_samples.write_record(store, metered("b", index))
    return store


BATCH = outcome_samples.batch_of("b", 5)


def changed(store, change):
    (key,) = [key for key in store.keys("^usage/") if key.endswith(".jsonl")]
    lines = store.objects["results", key].splitlines(keepends=True)
    store.objects["results", key] = b"".join(change(lines))


def longer(line, seconds):
    event = json.loads(line)
    event["data"]["stage_seconds"]["purify"] = seconds
    return json.dumps(event).encode() + b"\n"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda lines: lines, (0, 0)),
        (lambda lines: [*lines, lines[0]], (1, 0)),
        (lambda lines: lines[:2], (0, 2)),
        (lambda lines: [longer(lines[0], 9), *lines[1:]], (1, 0)),
        (lambda lines: [longer(lines[0], 0.1), *lines[1:]], (0, 1)),
        (lambda lines: [*lines, lines[0].replace(b'"index":0', b'"index":4')], (1, 0)),
        (lambda lines: [lines[0].replace(b'"default"', b'"clinic-b"'), *lines[1:]], (1, 1)),
    ],
    ids=["right", "twice", "gone", "too high", "too low", "no result", "another tenant"],
)
def test_bills_are_held_against_records(store, change, found):
    changed(store, change)
    complaints = []
    assert bills(store, BATCH, complaints) == found
    assert bool(complaints) == (found != (0, 0))
